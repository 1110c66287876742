/**
 * Moves pages whose contents are known between all tiers, by several users at once, until so many bytes have moved; every page of a
 * sequence that is back is checked on the device, behind nothing but the hold of its resumption.
 */
import type { Sequence } from "../../lib/index.js";
import { type DeviceRig, pageSize } from "./device_rig.js";
import { Random } from "./random.js";

export interface ContentRun {
  /** Bytes that were copied out of the device pool and into it, and read from and written to disk. */
  movedBytes: number;
  diskBytes: number;
  checkedPages: number;
  hostPages: number;
  wrongLayers: number;
  /** Tokens of pages that disk had pushed out or lost. */
  lostTokens: number;
  failedCopies: number;
  seconds: number;
}

interface Held {
  sequence: Sequence;
  /** Numbers of its pages: of their contents, and in all of their tokens. */
  numbers: number[];
}

/** Users, and what each keeps: at most a few sequences, one of them running. */
const users = 3;
const sequencesOfUser = 8;

export class ContentMover {
  readonly #rig: DeviceRig;
  readonly #random: Random;
  readonly #mostPages: number;
  #nextPage = 0;
  readonly run: ContentRun = {
    movedBytes: 0,
    diskBytes: 0,
    checkedPages: 0,
    hostPages: 0,
    wrongLayers: 0,
    lostTokens: 0,
    failedCopies: 0,
    seconds: 0,
  };

  constructor(rig: DeviceRig, seed: number) {
    this.#rig = rig;
    this.#random = new Random(seed);
    this.#mostPages = Math.floor(rig.tiers.devicePages / (users + 1));
  }

  /** Resolves when so many bytes have moved between device and host. `told` hears of it now and then. */
  async move(bytes: number, told?: (run: ContentRun) => void): Promise<ContentRun> {
    const begun = performance.now();
    const user = async (): Promise<void> => {
      const mine: Held[] = [];
      while (this.run.movedBytes < bytes) {
        if (mine.length < sequencesOfUser) mine.push(await this.#make());
        else if (this.#random.chance(0.1)) mine.splice(this.#random.below(mine.length), 1)[0]?.sequence.dispose();
        else await this.#useAndLeave(mine[this.#random.below(mine.length)] as Held);
        this.#count(begun);
        told?.(this.run);
      }
      for (const { sequence } of mine) sequence.dispose();
    };
    await Promise.all(Array.from({ length: users }, user));
    await this.#rig.tiers.idle();
    this.#rig.cache.checkIntegrity();
    this.#count(begun);
    return this.run;
  }

  #count(begun: number): void {
    const { moves, keyed, lostTokens } = this.#rig.tiers.stats();
    this.run.movedBytes = moves.outBytes + moves.inBytes;
    this.run.diskBytes = Object.values(keyed).reduce((sum, tier) => sum + tier.loadedBytes + tier.storedBytes, 0);
    this.run.failedCopies = moves.failures;
    this.run.lostTokens = lostTokens;
    this.run.seconds = (performance.now() - begun) / 1000;
  }

  async #make(): Promise<Held> {
    const { cache, tiers } = this.#rig;
    const sequence = cache.createSequence(Uint32Array.of(this.#nextPage, 1, 2, 3));
    const held: Held = { sequence, numbers: [] };
    await this.#extend(held, 1 + this.#random.below(this.#mostPages - 1));
    await this.#leave(held);
    if (this.#random.chance(0.3)) await tiers.flush(sequence);
    return held;
  }

  /** More pages at its end; fewer where room is short. */
  async #extend({ sequence, numbers }: Held, pages: number): Promise<void> {
    const { cache, tiers, patterns, onDevice, stream } = this.#rig;
    const count = Math.min(pages, await tiers.makeRoom(pages));
    if (count <= 0) return;
    const from = numbers.length;
    try {
      sequence.reserve(count * pageSize);
    } catch {
      return; // somebody else took the room
    }
    const slots = this.#slots(sequence);
    for (let page = from; page < from + count; page++) {
      numbers.push(this.#nextPage++);
      patterns.write(stream, onDevice, slots[page] as number, numbers[page] as number);
    }
    sequence.commit(count * pageSize);
    const tokens = Int32Array.from({ length: count * pageSize }, (_, i) => numbers[from + Math.floor(i / pageSize)] as number);
    cache.noteTokens(sequence.row, from * pageSize, tokens);
  }

  #slots({ row }: Sequence): number[] {
    const { pool, table } = this.#rig.cache.groups[0] as DeviceRig["cache"]["groups"][number];
    return Array.from(table.pages(row), (page) => pool.slot(page, 0));
  }

  async #useAndLeave(held: Held): Promise<void> {
    const { tiers, onDevice, patterns, stream } = this.#rig;
    const { sequence, numbers } = held;
    const resumption = tiers.resume(sequence);
    try {
      await (resumption.placed ?? resumption.ready);
    } catch (error) {
      if ((error as { code?: string }).code === "ERR_KVASIR_OUT_OF_PAGES") return; // others run
      throw error;
    }
    resumption.waitLayer();
    const slots = this.#slots(sequence);
    numbers.length = slots.length;
    const wrong = patterns.wrongLayers(stream, onDevice, slots, numbers.slice());
    if (this.#random.chance(0.3)) await this.#grow(held);
    this.run.wrongLayers += await wrong;
    this.run.checkedPages += slots.length;
    await resumption.ready;
    await this.#leave(held);
  }

  /** New pages behind the old ones, or other ones in their place. */
  async #grow(held: Held): Promise<void> {
    const { sequence, numbers } = held;
    const pages = numbers.length;
    if (pages > 2 && this.#random.chance(0.5)) {
      numbers.length = this.#random.below(pages);
      sequence.truncate(numbers.length * pageSize);
    } else if (pages < this.#mostPages - 1) await this.#extend(held, 1);
  }

  async #leave({ sequence, numbers }: Held): Promise<void> {
    const { tiers, cache, onHost, patterns } = this.#rig;
    if (this.#random.chance(0.5)) {
      tiers.suspend(sequence);
      return;
    }
    await tiers.swapOut(sequence);
    if (!this.#random.chance(0.2)) return;
    // What lies in the host pool now, read there.
    const { pool, table } = cache.groups[0] as DeviceRig["cache"]["groups"][number];
    const pages = Array.from(table.pages(sequence.row)).flatMap((page, i) => {
      const isThere = pool.isValid(page, 1) && pool.marks(page) === 0;
      return isThere ? [{ page, slot: pool.slot(page, 1), number: numbers[i] as number }] : [];
    });
    const wrong = await patterns.wrongLayers(
      onHost.device.stream,
      onHost,
      pages.map(({ slot }) => slot),
      pages.map(({ number }) => number),
    );
    const areThere = pages.every(({ page, slot }) => pool.slot(page, 1) === slot);
    if (!areThere) return; // they moved on while they were read
    this.run.wrongLayers += wrong;
    this.run.hostPages += pages.length;
  }
}
