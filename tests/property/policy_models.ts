/** The eviction policies said with arrays and maps: what each must choose, with no thought of speed. */

export interface PolicyModel {
  insert(page: number, isCold: boolean): void;
  remove(page: number): void;
  touch(page: number): void;
  coldest(): number | undefined;
  evicted(page: number): void;
  forget(page: number): void;
  setPriority?(page: number, priority: number, ttlMs: number | undefined): void;
}

const without = (list: number[], page: number): number[] => list.filter((other) => other !== page);

export class LruModel implements PolicyModel {
  order: number[] = [];

  insert(page: number, isCold: boolean): void {
    this.order = isCold ? [page, ...this.order] : [...this.order, page];
  }

  remove(page: number): void {
    this.order = without(this.order, page);
  }

  touch(page: number): void {
    if (this.order.includes(page)) this.order = [...without(this.order, page), page];
  }

  coldest(): number | undefined {
    return this.order[0];
  }

  evicted(): void {}

  forget(): void {}
}

/** Ranks are unbounded here: age at the last ranking + 1 + hits, 15 at most; the age is the rank of the last coldest page. */
export class LfuModel implements PolicyModel {
  readonly hits: Map<number, number> = new Map();
  order: { page: number; rank: number }[] = [];
  age = 0;

  insert(page: number, isCold: boolean): void {
    if (isCold) {
      this.coldest();
      this.order.unshift({ page, rank: this.age });
    } else this.order.push({ page, rank: this.age + 1 + (this.hits.get(page) ?? 0) });
  }

  remove(page: number): void {
    this.order = this.order.filter((entry) => entry.page !== page);
  }

  touch(page: number): void {
    this.hits.set(page, Math.min(15, (this.hits.get(page) ?? 0) + 1));
    if (!this.order.some((entry) => entry.page === page)) return;
    this.remove(page);
    this.insert(page, false);
  }

  coldest(): number | undefined {
    const rank = Math.min(...this.order.map((entry) => entry.rank));
    const entry = this.order.find((other) => other.rank === rank);
    if (entry !== undefined) this.age = rank;
    return entry?.page;
  }

  evicted(): void {}

  forget(page: number): void {
    this.hits.delete(page);
  }
}

/** `ghosts` holds pages in place of keys: here a page's key never changes. */
export class S3FifoModel implements PolicyModel {
  readonly slots: number;
  small: number[] = [];
  main: number[] = [];
  readonly known: Map<number, { hits: number; isMain: boolean }> = new Map();
  readonly hitsBefore: Map<number, number> = new Map();
  ghosts: { page: number; at: number }[] = [];
  now = 0;

  constructor(slots: number) {
    this.slots = slots;
  }

  insert(page: number, isCold: boolean): void {
    if (!this.known.has(page)) {
      const ghost = this.ghosts.find((entry) => entry.page === page && this.now - entry.at < this.slots);
      if (ghost !== undefined) this.ghosts = this.ghosts.filter((entry) => entry !== ghost);
      this.known.set(page, { hits: this.hitsBefore.get(page) ?? 0, isMain: ghost !== undefined });
      this.hitsBefore.delete(page);
    }
    const name = this.known.get(page)?.isMain ? "main" : "small";
    this[name] = isCold ? [page, ...this[name]] : [...this[name], page];
  }

  remove(page: number): void {
    this.small = without(this.small, page);
    this.main = without(this.main, page);
  }

  touch(page: number): void {
    const known = this.known.get(page);
    if (known !== undefined) known.hits = Math.min(3, known.hits + 1);
    else this.hitsBefore.set(page, Math.min(3, (this.hitsBefore.get(page) ?? 0) + 1));
  }

  coldest(): number | undefined {
    for (;;) {
      const fromSmall =
        this.small.length > 0 && (this.main.length === 0 || this.small.length >= Math.max(1, Math.floor(this.slots / 10)));
      const page = fromSmall ? this.small[0] : this.main[0];
      if (page === undefined) return undefined;
      const known = this.known.get(page) as { hits: number; isMain: boolean };
      if (fromSmall ? known.hits <= 1 : known.hits === 0) return page;
      this.remove(page);
      this.main.push(page);
      known.hits = fromSmall ? 0 : known.hits - 1;
      known.isMain = true;
    }
  }

  evicted(page: number): void {
    if (!this.known.get(page)?.isMain) this.ghosts.push({ page, at: ++this.now });
    this.forget(page);
  }

  forget(page: number): void {
    this.known.delete(page);
    this.hitsBefore.delete(page);
  }
}

export class PriorityModel implements PolicyModel {
  readonly now: () => number;
  /** Coldest first within a priority; an expired page has priority -1. */
  order: number[] = [];
  readonly priorities: Map<number, number> = new Map();
  expiries: { page: number; at: number }[] = [];

  constructor(now: () => number) {
    this.now = now;
  }

  insert(page: number, isCold: boolean): void {
    this.order = isCold ? [page, ...this.order] : [...this.order, page];
  }

  remove(page: number): void {
    this.order = without(this.order, page);
  }

  touch(page: number): void {
    if (this.order.includes(page)) this.order = [...without(this.order, page), page];
  }

  coldest(): number | undefined {
    const due = this.expiries.filter(({ at }) => at <= this.now()).sort((a, b) => a.at - b.at);
    this.expiries = this.expiries.filter(({ at }) => at > this.now());
    for (const { page } of due) {
      this.priorities.set(page, -1);
      this.touch(page);
    }
    const priority = (page: number): number => this.priorities.get(page) ?? 35;
    const least = Math.min(...this.order.map(priority));
    return this.order.find((page) => priority(page) === least);
  }

  evicted(): void {}

  forget(page: number): void {
    this.priorities.delete(page);
    this.expiries = this.expiries.filter((entry) => entry.page !== page);
  }

  setPriority(page: number, priority: number, ttlMs: number | undefined): void {
    this.expiries = this.expiries.filter((entry) => entry.page !== page);
    if (ttlMs !== undefined) this.expiries.push({ page, at: this.now() + ttlMs });
    this.priorities.set(page, priority);
    this.touch(page);
  }
}
