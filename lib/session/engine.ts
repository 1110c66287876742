/** What the scheduler's loop asks of a model, so that it can be tested with a made-up one; and the engine of a real model. */
import type { KvCache } from "../cache/kv_cache.js";
import type { Sequence } from "../cache/sequence.js";
import type { Sampling } from "../model/decode_program.js";
import type { Model } from "../model/model.js";
import type { BatchMember, RunningBatch } from "../model/running_batch.js";
import type { Stream } from "../stream.js";

/** Tokens to be read into a sequence, for which it has reserved room. */
export interface Piece {
  sequence: Sequence;
  tokens: Int32Array;
  /** Present: a token is chosen after the last one. */
  sampling: Sampling | undefined;
}

/** A pass that was enqueued. */
export interface Pass {
  /** Resolves when the pass has run, with the chosen tokens in the order of the pieces that asked for one. */
  tokens: Promise<ArrayLike<number>>;
  /** Makes the `index`-th chosen token a member of the batch, from the next step on. */
  join(index: number): object;
  /** Frees what the pass left for `join`; after the next step was enqueued. */
  release(): void;
}

export interface Engine {
  readonly cache: KvCache;
  /** Most tokens of a pass, and most members of a batch. */
  readonly passTokens: number;
  /** An empty sequence that shares pages with those of the same salt. */
  createSequence(salt: string | undefined): Sequence;
  /** Enqueues a pass. `beforeLayer` lets its stream wait for a layer's pages. */
  pass(pieces: readonly Piece[], beforeLayer?: (stream: Stream, layer: number) => void): Pass;
  /** Adds a sequence to the batch with its latest token, the `draw`-th of its answer. */
  join(sequence: Sequence, sampling: Sampling, draw: number, token: number): object;
  leave(member: object): void;
  /** Enqueues a step of all members; the promise gives their chosen tokens in the order of `members`. */
  step(): { members: readonly object[]; tokens: Promise<ArrayLike<number>> };
  dispose(): void;
}

export class ModelEngine implements Engine {
  readonly cache: KvCache;
  readonly passTokens: number;
  readonly #model: Model;
  readonly #batch: RunningBatch;

  constructor(model: Model) {
    this.#model = model;
    this.#batch = model.runner.createBatch();
    this.cache = model.cache;
    this.passTokens = model.runner.passTokens;
  }

  createSequence(salt: string | undefined): Sequence {
    return this.#model.createSequence({ salt });
  }

  pass(pieces: readonly Piece[], beforeLayer?: (stream: Stream, layer: number) => void): Pass {
    const { stream, runner } = this.#model;
    const ends = pieces.filter(({ sampling }) => sampling !== undefined);
    const ids = runner.enqueuePass(
      pieces.map(({ sequence, tokens, sampling }) => ({ sequence, tokens, wantsLogits: sampling !== undefined })),
      ends.map(({ sampling }) => sampling as Sampling),
      { beforeLayer: beforeLayer === undefined ? undefined : (layer) => beforeLayer(stream, layer) },
    );
    const tokens = ids === undefined ? stream.finished().then(() => []) : (ids.read({ stream }) as Promise<Int32Array>);
    return {
      tokens,
      join: (index) => {
        const { sequence, sampling } = ends[index] as Piece & { sampling: Sampling };
        return this.#batch.join(sequence, sampling, 0, { ids: ids as NonNullable<typeof ids>, row: index });
      },
      release: () => ids?.dispose(),
    };
  }

  join(sequence: Sequence, sampling: Sampling, draw: number, token: number): object {
    return this.#batch.join(sequence, sampling, draw, token);
  }

  leave(member: object): void {
    this.#batch.leave(member as BatchMember);
  }

  step(): { members: readonly object[]; tokens: Promise<ArrayLike<number>> } {
    return this.#batch.step();
  }

  dispose(): void {
    this.#batch.dispose();
  }
}
