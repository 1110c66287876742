/**
 * What a PagePool must do, said with objects, scans and arrays: every rule is computed afresh from all pages. Orders are least recently
 * used, with the two places where a search sets pages aside.
 */
import { ACTIVE, CACHED, FREE, MARK_IN, MARK_OUT, NONE, SEALED } from "../../lib/cache/page_pool.js";

export interface ModelPage {
  epoch: number;
  state: number;
  refs: number;
  uses: number;
  marks: number;
  tiers: number;
  hasSlot: boolean[];
  valid: boolean[];
  key: string;
  /** Page, or NONE. */
  parent: number;
  parentKey: string;
  tokens: string;
}

/** Thrown by the model where the pool must refuse. */
export class Refused extends Error {}

const refuseIf = (condition: boolean): void => {
  if (condition) throw new Refused();
};

interface Order {
  main: number[];
  barred: number[];
  movable: number[];
}

export type PageClass = "transfer" | "movable" | "droppable" | "blocked";

export class PoolModel {
  readonly pages: ModelPage[];
  readonly orders: Order[];
  readonly slots: readonly number[];
  #before: { order: number; pageClass: PageClass }[] = [];

  constructor(numPages: number, slots: readonly number[]) {
    this.slots = slots;
    this.orders = slots.map(() => ({ main: [], barred: [], movable: [] }));
    const none = slots.map(() => false);
    this.pages = Array.from({ length: numPages }, () => ({
      ...{ epoch: 0, state: FREE, refs: 0, uses: 0, marks: 0, tiers: 0, key: "", parent: NONE, parentKey: "", tokens: "" },
      ...{ hasSlot: [...none], valid: [...none] },
    }));
    this.settle();
  }

  at(page: number): ModelPage {
    return this.pages[page] as ModelPage;
  }

  isGone(page: number): boolean {
    return this.at(page).state === ACTIVE && this.at(page).refs === 0;
  }

  free(): number[] {
    return this.pages.flatMap((page, id) => (page.state === FREE ? [id] : []));
  }

  freeSlots(arena: number): number {
    return (this.slots[arena] as number) - this.pages.filter((page) => page.hasSlot[arena]).length;
  }

  children(page: number): number {
    return this.pages.filter(({ state, parent }) => state > ACTIVE && parent === page).length;
  }

  orderFor(id: number): number {
    const page = this.at(id);
    if (page.uses > 0 || this.isGone(id)) return NONE;
    if (page.valid[0]) return 0;
    return page.valid[1] && !page.hasSlot[0] ? 1 : NONE;
  }

  classFor(id: number): PageClass {
    const page = this.at(id);
    const lowest = this.orderFor(id) === this.slots.length - 1;
    if (page.marks !== 0) return "transfer";
    if (page.tiers !== 0 || page.valid.filter(Boolean).length > 1) return "droppable";
    if (page.refs > 0) return "movable";
    if (this.children(id) === 0) return "droppable";
    return lowest ? "blocked" : "movable";
  }

  /** Pages of an arena's order in one of the classes. */
  count(arena: number, classes: readonly PageClass[]): number {
    return this.pages.filter((_, id) => this.orderFor(id) === arena && classes.includes(this.classFor(id))).length;
  }

  isDuplicate(id: number): boolean {
    const page = this.at(id);
    return page.valid[0] === true && page.hasSlot[1] === true && page.marks === 0;
  }

  alive(id: number): ModelPage {
    const page = this.at(id);
    refuseIf(page.state === FREE || this.isGone(id));
    return page;
  }

  create(id: number, withSlot: boolean): void {
    const page = this.at(id);
    Object.assign(page, { state: ACTIVE, refs: 1, uses: 1, epoch: page.epoch + 1 });
    if (withSlot) {
      page.hasSlot[0] = true;
      page.valid[0] = true;
    }
    this.settle();
  }

  retain(id: number, isUse: boolean): void {
    const page = this.alive(id);
    page.refs++;
    if (isUse) page.uses++;
    if (page.state === CACHED) page.state = SEALED;
    this.settle();
  }

  release(id: number, isUse: boolean): void {
    const page = this.at(id);
    const uses = page.uses - (isUse ? 1 : 0);
    refuseIf(page.refs === 0 || uses < 0 || uses > page.refs - 1);
    page.refs--;
    page.uses = uses;
    this.#tidy(page);
    this.settle();
  }

  changeUses(id: number, difference: number): void {
    const page = this.at(id);
    if (difference > 0) this.alive(id);
    refuseIf(page.uses + difference < 0 || page.uses + difference > page.refs);
    page.uses += difference;
    this.settle();
  }

  takeSlot(id: number, arena: number): void {
    refuseIf(this.alive(id).hasSlot[arena] === true);
    this.at(id).hasSlot[arena] = true;
    this.settle();
  }

  dropSlot(id: number, arena: number): void {
    const page = this.at(id);
    if (!page.hasSlot[arena]) return;
    const lowest = this.slots.length - 1;
    refuseIf(arena === lowest ? page.marks !== 0 : (page.marks & (MARK_OUT | MARK_IN)) !== 0);
    page.hasSlot[arena] = false;
    page.valid[arena] = false;
    this.settle();
  }

  setValid(id: number, arena: number, valid: boolean): void {
    if (this.isGone(id)) return;
    refuseIf(valid && !this.alive(id).hasSlot[arena]);
    this.alive(id).valid[arena] = valid;
    this.settle();
  }

  dirty(id: number): void {
    refuseIf(this.at(id).state !== ACTIVE);
    if (this.slots.length > 1) this.at(id).valid[1] = false;
    this.settle();
  }

  mark(id: number, mark: number): void {
    refuseIf((this.alive(id).marks & mark) !== 0);
    this.at(id).marks |= mark;
    this.settle();
  }

  unmark(id: number, mark: number): boolean {
    refuseIf((this.at(id).marks & mark) === 0);
    this.at(id).marks &= ~mark;
    const isAlive = !this.isGone(id);
    this.#tidy(this.at(id));
    this.settle();
    return isAlive;
  }

  setTier(id: number, tier: number, on: boolean): void {
    if (this.isGone(id)) return;
    const page = this.at(id);
    refuseIf(page.state < SEALED);
    page.tiers = on ? page.tiers | tier : page.tiers & ~tier;
    this.settle();
  }

  /** The page in the index that has the key, or NONE. */
  holder(key: string): number {
    return this.pages.findIndex((page) => page.state > ACTIVE && page.key === key);
  }

  find(key: string, parent: number, root: string, tokens: string): number {
    const id = this.holder(key);
    if (id === NONE) return NONE;
    const isFirst = this.at(id).parent === NONE;
    const parentKey = parent === NONE ? root : this.at(parent).state > ACTIVE ? this.at(parent).key : "none";
    return isFirst === (parent === NONE) && this.at(id).parentKey === parentKey && this.at(id).tokens === tokens ? id : NONE;
  }

  seal(id: number, key: string, parent: number, root: string, tokens: string): number {
    refuseIf(this.alive(id).state !== ACTIVE || (parent !== NONE && this.at(parent).state < SEALED));
    if (this.holder(key) !== NONE) return this.find(key, parent, root, tokens);
    const parentKey = parent === NONE ? root : this.at(parent).key;
    Object.assign(this.at(id), { state: SEALED, key, parent, parentKey, tokens });
    this.settle();
    return id;
  }

  touch(id: number): void {
    const order = this.orderFor(id);
    if (order === NONE) return;
    this.#unlist(order, id);
    (this.orders[order] as Order).main.push(id);
  }

  victim(arena: number, isMovable: boolean): number {
    const order = this.orders[arena] as Order;
    const wanted = (id: number): boolean => this.classFor(id) === "droppable" || (isMovable && this.classFor(id) === "movable");
    if (isMovable && order.movable.length > 0) return order.movable[0] as number;
    if (!order.main.some(wanted)) {
      const any = this.count(arena, isMovable ? ["droppable", "movable"] : ["droppable"]) > 0;
      if (!any) return NONE;
    }
    while (order.main.length > 0 && !wanted(order.main[0] as number)) {
      const id = order.main.shift() as number;
      (this.classFor(id) === "movable" ? order.movable : order.barred).push(id);
    }
    return order.main[0] ?? NONE;
  }

  /** Applies what follows from a change: ends of pages, until nothing more ends, then the orders. */
  settle(): void {
    for (let changed = true; changed; ) changed = this.pages.some((_, id) => this.#end(id));
    this.pages.forEach((_, id) => {
      const old = this.#before[id] ?? { order: NONE, pageClass: "transfer" };
      const now = { order: this.orderFor(id), pageClass: this.classFor(id) };
      this.#before[id] = now;
      if (old.order === now.order) {
        const order = this.orders[now.order];
        if (order === undefined || old.pageClass === now.pageClass || order.main.includes(id)) return;
        this.#unlist(now.order, id);
        order.main.unshift(id);
        return;
      }
      if (old.order !== NONE) this.#unlist(old.order, id);
      this.orders[now.order]?.main.push(id);
    });
  }

  /** Slots without contents that an unreferenced page would keep for nobody. */
  #tidy(page: ModelPage): void {
    if (page.refs === 0 && page.marks === 0) page.hasSlot = page.hasSlot.map((has, arena) => has && page.valid[arena] === true);
  }

  /** Whether the page has just come a step nearer its end. */
  #end(id: number): boolean {
    const page = this.at(id);
    if (page.state === FREE || page.refs > 0) return false;
    if (page.state === SEALED && (page.valid.some(Boolean) || page.marks !== 0)) {
      page.state = CACHED;
      return true;
    }
    if (page.state === CACHED && (page.valid.some(Boolean) || page.marks !== 0)) return false;
    if (page.state > ACTIVE || page.valid.some(Boolean)) {
      Object.assign(page, { state: ACTIVE, tiers: 0, parent: NONE });
      page.valid.fill(false);
      return true;
    }
    if (page.marks !== 0) return false;
    if (page.hasSlot.some(Boolean)) {
      page.hasSlot.fill(false);
      return true;
    }
    if (this.children(id) > 0) return false;
    page.state = FREE;
    return true;
  }

  #unlist(arena: number, id: number): void {
    const order = this.orders[arena] as Order;
    for (const list of [order.main, order.barred, order.movable]) if (list.includes(id)) list.splice(list.indexOf(id), 1);
  }
}
