/** The tiers below a model's cache, as options say them: a pinned host pool, a slab file on disk, a shared store. */
import { CacheTiers } from "../cache/cache_tiers.js";
import { DeviceMover } from "../cache/device_mover.js";
import type { DevicePageStore } from "../cache/device_store.js";
import type { PolicyName } from "../cache/eviction_policies.js";
import { type DiskTierOptions, openDiskTier } from "../cache/disk_tier.js";
import type { KvCache } from "../cache/kv_cache.js";
import { identityFormat, type LayerGroup, type PageFormat } from "../cache/page_format.js";
import { openRemoteTier, type RemoteTierOptions } from "../cache/remote_tier.js";
import type { TierDriver } from "../cache/tier_driver.js";
import { fingerprint, TIER_VERSION, type TierIdentity } from "../cache/tier_identity.js";
import { type Device, openDevice } from "../device.js";
import { KvasirError } from "../errors.js";
import { allocateHostTensor } from "../host_tensor.js";
import { checkInteger, checkOptions } from "../options.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import { measureTransferPaths } from "../transfer_paths.js";

export interface TierOptions {
  /**
   * A pool of host memory, page-locked for a GPU, that pages leave the device for. `writeThrough`: full pages of a suspended sequence are
   * copied there at once, as far as slots are free, so that nobody waits for the copy when their room is needed; default false.
   */
  host?: { bytes: number; writeThrough?: boolean | undefined } | undefined;
  /** A slab file that outlives the process. */
  disk?: Pick<DiskTierOptions, "path" | "maxBytes" | "engine" | "onMismatch" | "sync"> | undefined;
  /** A Redis or Valkey server that several processes share. */
  remote?: Omit<RemoteTierOptions, "identity" | "pools"> | undefined;
  /** Which pages leave the device and the host pool first; default "lru". */
  policy?: PolicyName | undefined;
  /** Whether pages that nobody refers to go to disk or store only at their second use; default true. */
  admitAtSecondUse?: boolean | undefined;
  /** What tells the weights apart in stores that outlive the process; default a digest of the checkpoint. */
  modelId?: string | undefined;
}

/** Page counts of a cache with tiers. */
export interface TierSizes {
  hostPages: number;
  farPages: number;
}

/** Most pages that are known only by where they lie on disk. */
const mostFarPages = 1 << 22;

/** @throws ERR_KVASIR_UNKNOWN_OPTION, ERR_KVASIR_INVALID_ARGUMENT */
export function tierSizes(options: TierOptions | undefined, groups: readonly LayerGroup[], pageSize: number): TierSizes {
  if (options === undefined) return { hostPages: 0, farPages: 0 };
  checkOptions("tiers", options, ["host", "disk", "remote", "policy", "admitAtSecondUse", "modelId"]);
  if (options.host !== undefined) checkOptions("tiers.host", options.host, ["bytes", "writeThrough"]);
  const pageBytes = groups.reduce((sum, group) => sum + identityFormat(group, pageSize).pageBytes, 0);
  const hostBytes = checkInteger("tiers.host.bytes", options.host?.bytes ?? 0, 0);
  const hostPages = Math.floor(hostBytes / pageBytes);
  if (options.host !== undefined && hostPages === 0) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `tiers.host.bytes is ${hostBytes}, expected at least ${pageBytes}, the bytes of one page of every layer group`,
    );
  }
  const far = Math.min(mostFarPages, Math.ceil((options.disk?.maxBytes ?? 0) / pageBytes));
  return { hostPages, farPages: options.remote === undefined ? far : Math.max(far, 1 << 16) };
}

export interface TierParts {
  device: Device;
  stream: Stream;
  cache: KvCache;
  store: DevicePageStore;
  identity: Omit<TierIdentity, "version" | "dtype" | "pageSize" | "groups">;
}

/** What is opened for a model, and closed with it. */
export interface OpenTiers {
  readonly tiers: CacheTiers;
  /** Of the pages' identity. */
  readonly fingerprint: Uint8Array;
  /** The host pool by layer group, [slots, elements_per_page]; empty without one. */
  readonly hostPages: readonly Tensor[];
  /** Ends the keyed tiers, then frees host memory. */
  close(): Promise<void>;
}

/** @throws ERR_KVASIR_OUT_OF_MEMORY with what would fit, and what the tiers throw */
export async function openTiers(parts: TierParts, options: TierOptions): Promise<OpenTiers> {
  const { device, stream, cache, store } = parts;
  const formats = cache.groups.map(({ format }) => format);
  const identity = tierIdentity(parts, formats);
  const devicePages = formats.map((_, group) => store.pages(group));
  const host = device.backend === "cpu" ? device : openDevice("cpu");
  const hostPages: Tensor[] = [];
  const drivers: TierDriver[] = [];
  const free = async (): Promise<void> => {
    for (const driver of drivers) await driver.close();
    for (const pool of hostPages) pool.dispose();
    if (host !== device) host.dispose();
  };
  try {
    if (options.host !== undefined) await fillHostPools(hostPages, device, host, cache, formats);
    else if (device.backend !== "cpu" && (options.disk ?? options.remote) !== undefined) {
      throw new KvasirError(
        "ERR_KVASIR_INVALID_ARGUMENT",
        "tiers.host is absent, but the disk and remote tiers of a GPU's cache read and write a host pool; give tiers.host.bytes",
      );
    }
    const common = { identity, pools: hostPages.length > 0 ? hostPages : devicePages };
    if (options.disk !== undefined) drivers.push(await openDiskTier({ ...options.disk, ...common }));
    if (options.remote !== undefined) drivers.push(await openRemoteTier({ ...options.remote, ...common }));
    if (device !== host && hostPages.length > 0) await measureTransferPaths(device, host);
  } catch (error) {
    await free();
    throw error;
  }
  const mover = new DeviceMover({ device, stream, formats, devicePages, hostPages });
  const tiers = new CacheTiers({
    cache,
    mover,
    drivers,
    writeThrough: options.host?.writeThrough,
    admitAtSecondUse: options.admitAtSecondUse,
    isOnGpu: device.backend === "cuda",
  });
  const close = async (): Promise<void> => {
    await tiers.idle();
    mover.dispose();
    await free();
  };
  return { tiers, fingerprint: fingerprint(identity), hostPages, close };
}

/** Pinned for a GPU. */
async function fillHostPools(
  pools: Tensor[],
  device: Device,
  host: Device,
  cache: KvCache,
  formats: readonly PageFormat[],
): Promise<void> {
  for (const [group, { dtype, offsets, pageSize, headDim }] of formats.entries()) {
    const slots = cache.groups[group]?.pool.numSlots(1) as number;
    const shape = [slots, offsets.length * pageSize * headDim];
    pools.push(await allocateHostTensor(host, dtype, shape, device === host ? {} : { pinnedFor: device }));
  }
}

export function tierIdentity(parts: TierParts, formats: readonly PageFormat[]): TierIdentity {
  const { cache, identity } = parts;
  return {
    version: TIER_VERSION,
    ...identity,
    dtype: (formats[0] as PageFormat).dtype,
    pageSize: cache.pageSize,
    groups: cache.groups.map(({ layers, format }) => ({
      layers: layers.layers,
      numKvHeads: layers.numKvHeads,
      headDim: layers.headDim,
      window: layers.window,
      format: format.name,
      pageBytes: format.pageBytes,
      storeRotated: format.storeRotated,
    })),
  };
}
