/** kvasir: exact attention over long contexts, from Node, on the CPU and on CUDA. */
export { DevicePageStore } from "./cache/device_store.js";
export { type ContextStore, DeviceOnlyStore, type HitTokens, type Resumption } from "./cache/context_store.js";
export type { CacheStats, GroupStats } from "./cache/cache_stats.js";
export { CacheTiers, type CacheTiersOptions } from "./cache/cache_tiers.js";
export { DeviceMover, type DeviceMoverOptions } from "./cache/device_mover.js";
export { type DiskTier, type DiskTierOptions, openDiskTier } from "./cache/disk_tier.js";
export { evictionPolicy, type PolicyName, policyNames } from "./cache/eviction_policies.js";
export { KvCache, type KvCacheOptions } from "./cache/kv_cache.js";
export { identityFormat, type LayerGroup, layerOffsets, type PageFormat } from "./cache/page_format.js";
export { matchPrefix } from "./cache/prefix_claim.js";
export { NONE, PagePool, type PagePoolOptions, type PageState } from "./cache/page_pool.js";
export { openRemoteTier, type RemoteStats, type RemoteTier, type RemoteTierOptions } from "./cache/remote_tier.js";
export type { Move, MoveOutcome, PageMover } from "./cache/page_mover.js";
export type { PageStore } from "./cache/page_store.js";
export type { Sequence } from "./cache/sequence.js";
export type { PageBatch, TierDriver, TierStats } from "./cache/tier_driver.js";
export { TIER_VERSION, type TierGroup, type TierIdentity } from "./cache/tier_identity.js";
export {
  type Backend,
  type Device,
  type DeviceDescription,
  type DeviceKind,
  type DeviceMemory,
  type DeviceOptions,
  openDevice,
  probeBackends,
} from "./device.js";
export { type BitArray, type DType, dtypeBytes, dtypes } from "./dtype.js";
export type { Float16ArrayLike, TensorData } from "./elements.js";
export { type ErrorCode, KvasirError } from "./errors.js";
export type { Event } from "./event.js";
export { allocateHostTensor, type HostTensorOptions, isPinned } from "./host_tensor.js";
export type { ModelConfig } from "./model/config.js";
export type { DecodeBatch, DecodeOptions } from "./model/decode.js";
export type { Sampling } from "./model/decode_program.js";
export type { GeneratedToken, GenerateOptions } from "./model/generate.js";
export type { HybridSequence } from "./model/hybrid_context.js";
export type { HybridDecode, HybridStats } from "./model/hybrid_decode.js";
export type { HybridOptions } from "./model/hybrid_open.js";
export type { HybridRates } from "./model/hybrid_plan.js";
export { loadModel, type Model, type ModelOptions, randomModel, type RandomModelOptions } from "./model/model.js";
export type { PrefillItem, PrefillOptions } from "./model/prefill.js";
export { type RopeConfig, ropeFrequencies } from "./model/rope.js";
export { type Checkpoint, openCheckpoint, openSafetensors, type TensorEntry } from "./model/safetensors.js";
export type { TierOptions } from "./model/tiers.js";
export { TextStream, type Tokenizer } from "./model/tokenizer.js";
export {
  type KvEvent,
  type KvEventKind,
  KvEvents,
  type KvEventsOptions,
  type KvReplay,
  type KvTier,
} from "./observe/kv_events.js";
export { Counter, Gauge, Histogram, type HistogramValue, type Labels, Metrics, type MetricSample } from "./observe/metrics.js";
export { type AdvanceArgs, advance } from "./ops/advance.js";
export { type AppendArgs, append } from "./ops/append.js";
export { type ArgmaxArgs, argmax } from "./ops/argmax.js";
export { type AttentionArgs, attention } from "./ops/attention.js";
export { attentionReference } from "./ops/attention_reference.js";
export { type CastArgs, cast } from "./ops/cast.js";
export { type CompareLogitsArgs, compareLogits } from "./ops/compare_logits.js";
export { type CrossEntropyArgs, crossEntropy } from "./ops/cross_entropy.js";
export { type EmbeddingArgs, embedding } from "./ops/embedding.js";
export { type LinearArgs, linear } from "./ops/linear.js";
export { type MergeArgs, merge } from "./ops/merge.js";
export { workspaceBytes } from "./ops/op.js";
export { createPageTable, type PageTable, type PageTableOptions } from "./ops/page_table.js";
export { type ProbeFmaArgs, type ProbeReadArgs, probeFma, probeRead } from "./ops/probe.js";
export { type RmsNormArgs, rmsNorm } from "./ops/rms_norm.js";
export { type RopeArgs, rope } from "./ops/rope.js";
export { type SampleArgs, sample } from "./ops/sample.js";
export { type SiluMulArgs, siluMul } from "./ops/silu_mul.js";
export { PAGE_KEY_WORDS, pageKeys, pageKeysSync, rootKey, type RootKeyOptions } from "./page_keys.js";
export type { Program } from "./program.js";
export type { Answer, AskResult, FinishReason, RequestCounters } from "./session/answer.js";
export type { FirstRates } from "./session/cost.js";
export { Scheduler, type SchedulerOptions, type SchedulerStats } from "./session/scheduler.js";
export type { AskOptions, ReadOptions, Session, SessionOptions } from "./session/session.js";
export type { Tally } from "./session/tally.js";
export type { Stream } from "./stream.js";
export type { StreamOption, Tensor } from "./tensor.js";
export type { CopyPath, PathFit, PathFits, PathSample, TransferDirection, TransferPaths } from "./transfer_fit.js";
export { measureTransferPaths } from "./transfer_paths.js";
export type { CopyPagesArgs, Transfer, TransferOutcome, TransferStream } from "./transfer_stream.js";
