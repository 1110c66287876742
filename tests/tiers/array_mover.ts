/** The cache's two doors to the machine: moves of pages between its memories, and page copies and tables of the compute stream. */
import type { Move, MoveOutcome, PageMover } from "../../lib/cache/page_mover.js";
import type { PageStore } from "../../lib/cache/page_store.js";
import { KvasirError } from "../../lib/errors.js";
import { BLANK } from "./content.js";
import type { LaneMove, Machine, PageMemory } from "./machine.js";
import type { Sabotage } from "./world.js";

/** Layers of a page, for the bytes that moves tell. */
const bytesPerNumber = 4;

class ArrayMove implements Move, LaneMove {
  readonly bytes: number;
  readonly done: Promise<MoveOutcome | "late">;
  readonly settled: Promise<MoveOutcome>;
  copied = 0;
  isCopied = false;
  outcome: MoveOutcome = "done";
  #tell!: (outcome: MoveOutcome | "late") => void;
  #end!: (outcome: MoveOutcome) => void;

  constructor(
    private readonly machine: Machine,
    private readonly lane: 0 | 1,
    readonly from: PageMemory,
    readonly to: PageMemory,
    readonly fromSlots: Int32Array,
    readonly toSlots: Int32Array,
    readonly after: number,
  ) {
    this.bytes = fromSlots.length * from.pageSize * bytesPerNumber;
    this.done = new Promise((resolve) => {
      this.#tell = resolve;
    });
    this.settled = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  hold(): void {
    this.machine.wait(this.lane, this);
  }

  cancel(): boolean {
    if (this.copied > 0 || this.isCopied || this.outcome !== "done") return false;
    this.outcome = "cancelled";
    return true;
  }

  /** The deadline passes; the move goes on. */
  late(): void {
    this.#tell("late");
  }

  settle(outcome: MoveOutcome): void {
    this.#tell(outcome);
    this.#end(outcome);
  }
}

export class ArrayMover implements PageMover {
  readonly #machine: Machine;
  readonly #device: readonly PageMemory[];
  readonly #host: readonly PageMemory[];
  /** The next move is refused, as by a device that is lost. */
  throwNext = false;

  readonly #sabotage: Sabotage | undefined;

  constructor(machine: Machine, device: readonly PageMemory[], host: readonly PageMemory[], sabotage?: Sabotage) {
    this.#machine = machine;
    this.#device = device;
    this.#host = host;
    this.#sabotage = sabotage;
  }

  toHost(group: number, deviceSlots: Int32Array, hostSlots: Int32Array): Move {
    return this.#move(0, this.#device[group] as PageMemory, deviceSlots, this.#host[group] as PageMemory, hostSlots);
  }

  toDevice(group: number, hostSlots: Int32Array, deviceSlots: Int32Array): Move {
    return this.#move(1, this.#host[group] as PageMemory, hostSlots, this.#device[group] as PageMemory, deviceSlots);
  }

  quiet(): Promise<void> {
    return this.#sabotage === "no-quiet" ? Promise.resolve() : this.#machine.quiet();
  }

  /** Deadlines of all moves of a lane pass. */
  passDeadlines(lane: 0 | 1): void {
    for (const move of this.#machine.lanes[lane]) (move as ArrayMove).late();
  }

  #move(lane: 0 | 1, from: PageMemory, fromSlots: Int32Array, to: PageMemory, toSlots: Int32Array): Move {
    if (this.throwNext) {
      this.throwNext = false;
      throw new KvasirError("ERR_KVASIR_DEVICE_LOST", "The device takes no more copies");
    }
    const after = this.#sabotage === "no-edge" ? 0 : this.#machine.given;
    const move = new ArrayMove(this.#machine, lane, from, to, fromSlots, toSlots, after);
    this.#machine.lanes[lane].push(move);
    if (this.#sabotage === "early-end") move.settle("done");
    return move;
  }
}

/** Tables are read where reads are given to the compute stream, so they may change at once; page copies go through the stream. */
export class LaggingStore implements PageStore {
  readonly tables: Int32Array[];
  readonly #machine: Machine;
  readonly #device: readonly PageMemory[];

  constructor(machine: Machine, device: readonly PageMemory[]) {
    this.#machine = machine;
    this.#device = device;
    this.tables = device.map(() => new Int32Array(0));
  }

  poolBytes(group: number): number {
    return (this.#device[group] as PageMemory).words.byteLength;
  }

  tableBytes(): number {
    return this.tables.reduce((sum, table) => sum + table.byteLength, 0);
  }

  copyPage(group: number, fromSlot: number, toSlot: number): void {
    const memory = this.#device[group] as PageMemory;
    this.#machine.compute(() => memory.copyPage(memory, fromSlot, toSlot));
  }

  resizeTable(group: number, entries: number): void {
    this.tables[group] = new Int32Array(entries).fill(BLANK);
  }

  writeTable(group: number, start: number, slots: Int32Array): void {
    (this.tables[group] as Int32Array).set(slots, start);
  }
}
