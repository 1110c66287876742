import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { NONE, PageLists } from "../../lib/cache/page_lists.js";
import { BitTree, SlotMap } from "../../lib/cache/slot_map.js";

/** Sizes around the places where a level gets another word, or the tree another level. */
const size = fc.oneof(fc.integer({ min: 1, max: 70 }), fc.constantFrom(1023, 1024, 1025, 2049, 32 * 1024 + 1));

describe("BitTree", () => {
  test("is a set: members, and the next one from any place", () => {
    fc.assert(
      fc.property(
        size,
        fc.array(fc.tuple(fc.boolean(), fc.nat({ max: 40000 })), { maxLength: 80 }),
        fc.boolean(),
        (size, steps, isFull) => {
          const tree = new BitTree(size);
          const members = new Set<number>();
          if (isFull) {
            tree.fill();
            for (let i = 0; i < size; i++) members.add(i);
          }
          for (const [isAdded, place] of steps) {
            const member = place % size;
            if (isAdded) tree.add(member);
            else tree.delete(member);
            if (isAdded) members.add(member);
            else members.delete(member);
            for (const from of [member, member + 1, 0, (member * 7) % size]) {
              let next = from;
              while (next < size && !members.has(next)) next++;
              expect(tree.nextFrom(from)).toBe(next < size ? next : NONE);
            }
            expect(tree.has(member)).toBe(isAdded);
          }
        },
      ),
    );
  });
});

describe("SlotMap", () => {
  test("gives the lowest free slot, counts, and refuses to take a slot back twice", () => {
    fc.assert(
      fc.property(size, fc.nat({ max: 200 }), fc.array(fc.nat({ max: 40000 }), { maxLength: 120 }), (size, taken, steps) => {
        const map = new SlotMap(size);
        const used: number[] = [];
        let peak = 0;
        const take = (): void => {
          let lowest = 0;
          while (used.includes(lowest)) lowest++;
          expect(map.take()).toBe(lowest < size ? lowest : NONE);
          if (lowest < size) used.push(lowest);
          peak = Math.max(peak, used.length);
        };
        for (let i = 0; i < taken; i++) take(); // so that whole words are used up
        for (const step of steps) {
          if (step % 5 < 3 || used.length === 0) take();
          else {
            const [slot] = used.splice(step % used.length, 1) as [number];
            map.give(slot);
            expect(() => map.give(slot)).toThrow(`Slot ${slot} is freed twice`);
          }
          expect([map.numFree, map.peakUsed]).toEqual([size - used.length, peak]);
        }
      }),
    );
  });
});

describe("PageLists", () => {
  test("are lists: pages leave from anywhere and come at either end", () => {
    const steps = fc.array(fc.tuple(fc.constantFrom("hot", "cold", "remove"), fc.nat({ max: 2 }), fc.nat({ max: 7 })), {
      maxLength: 100,
    });
    fc.assert(
      fc.property(steps, (steps) => {
        const lists = new PageLists(8, 3);
        const model = [[], [], []] as number[][];
        for (const [what, list, page] of steps) {
          const at = model.findIndex((pages) => pages.includes(page));
          expect(lists.isListed(page)).toBe(at >= 0);
          if (at >= 0) {
            lists.remove(page);
            model[at] = (model[at] as number[]).filter((other) => other !== page);
          }
          if (what === "hot") lists.pushHot(list, page);
          if (what === "cold") lists.pushCold(list, page);
          if (what === "hot") model[list]?.push(page);
          if (what === "cold") model[list]?.unshift(page);
          model.forEach((pages, list) => {
            expect([...lists.pages(list)]).toEqual(pages);
            expect(lists.coldest(list)).toBe(pages[0] ?? NONE);
          });
        }
      }),
    );
  });

  test("free pages are a stack", () => {
    const lists = new PageLists(3, 1);
    expect(lists.pop()).toBe(NONE);
    lists.stackAll();
    expect([...lists.stack()]).toEqual([0, 1, 2]);
    expect([lists.pop(), lists.pop()]).toEqual([0, 1]);
    expect([0, 1, 2].map((page) => lists.isListed(page))).toEqual([false, false, true]);
    lists.push(0);
    expect([lists.pop(), lists.pop(), lists.pop()]).toEqual([0, 2, NONE]);
  });
});
