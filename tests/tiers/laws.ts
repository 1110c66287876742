/** What must hold when a world comes to rest, and what must succeed when nothing stands in its way. */
import { ACTIVE } from "../../lib/cache/page_pool.js";
import { codeOf, step } from "./model_step.js";
import { adopt, resume } from "./returning.js";
import { Random } from "./random.js";
import { type Entry, pageSize, type World } from "./world.js";

/** Lets everything that JavaScript itself can go on with go on. */
export const drain = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Moves all parts of the machine on until nothing is left to do, in random order. */
export async function flow(world: World, seed: number): Promise<void> {
  const random = new Random(seed);
  const { machine, tiers } = world;
  for (let idle = 0; idle < 2 && world.failure === undefined; ) {
    await drain();
    let isMoving = false;
    for (let round = 0; round < 24; round++) {
      const part = random.below(3 + tiers.length);
      const tier = tiers[part - 3];
      if (part === 0 && machine.done < machine.given) machine.stepCompute(1 + random.below(40));
      else if ((part === 1 || part === 2) && (machine.lanes[part - 1] as unknown[]).length > 0)
        machine.stepLane((part - 1) as 0 | 1);
      else if (tier !== undefined && tier.waiting.length > 0) tier.letGo(random.next());
      else continue;
      isMoving = true;
    }
    const isResting = !isMoving && machine.isIdle && tiers.every(({ waiting }) => waiting.length === 0);
    idle = isResting ? idle + 1 : 0;
  }
}

/** Comes to rest: calls have ended, marks are gone, whoever read poison was told, and the books balance. */
export async function settle(world: World, seed: number): Promise<void> {
  await flow(world, seed);
  if (world.failure !== undefined) return;
  if (world.pending.size > 0) {
    world.fail(`nothing moves any more, but these have not ended: ${[...world.pending].map(({ name }) => name).join(", ")}`);
    return;
  }
  for (const [group, { pool }] of world.cache.groups.entries()) {
    for (let page = 0; page < pool.numPages; page++) {
      if (pool.marks(page) !== 0) world.fail(`page ${page} of group ${group} keeps mark ${pool.marks(page)} at rest`);
    }
  }
  for (const { id, isPoisoned, state } of world.entries) {
    if (isPoisoned && state !== "broken") world.fail(`sequence ${id} read what a failed copy left, and nobody was told`);
  }
  for (const entry of world.entries.filter(({ state }) => state === "broken")) world.leave(entry);
  world.controllers.length = 0;
  checkIntegrity(world);
}

export function checkIntegrity(world: World): void {
  try {
    world.cache.checkIntegrity();
  } catch (error) {
    world.fail((error as Error).message);
  }
}

/** At rest, with nothing going to fail and nobody running. */
async function calm(world: World, seed: number): Promise<void> {
  for (const tier of world.tiers) tier.fault = "none";
  world.machine.failNext.fill(false);
  world.mover.throwNext = false;
  await settle(world, seed);
  for (const entry of world.entries) {
    world.manager.suspend(entry.sequence);
    entry.state = "away";
    entry.suspensions++;
  }
}

/** Whether all that somebody refers to can leave the device. */
function fitsBelow(world: World): boolean {
  if (world.isAmple) return true;
  if (world.tiers.length > 0) return false; // they may be full, and then pages stay
  const { devicePages, hostPages } = world.config;
  return world.cache.groups.every(({ pool }) => {
    const { active, sealed } = pool.counts();
    return active + sealed <= Math.max(hostPages, hostPages === 0 ? devicePages : 0);
  });
}

/** What is said to be available can be had. */
async function available(world: World, seed: number): Promise<void> {
  await calm(world, seed);
  if (world.failure !== undefined) return;
  const said = world.manager.availablePages();
  const tell = (free: number): void =>
    void (free >= said || world.fail(`${said} pages are available, but only ${free} could be had`));
  world.track("makeRoom", world.manager.makeRoom(said), tell, () => false);
  await settle(world, seed + 1);
}

/** The only sequence that wants to run gets its pages, and room for more, whenever memory holds it. */
export async function alone(world: World, number: number, seed: number): Promise<void> {
  if (seed % 4 === 0) await available(world, seed);
  await calm(world, seed);
  const entry = world.pick(number);
  if (entry === undefined || world.failure !== undefined || !fitsBelow(world)) return;
  const pages = Math.ceil(entry.text.length / pageSize);
  const { devicePages } = world.config;
  if (pages > devicePages) return;
  const wasLength = entry.text.length;
  resume(world, entry, undefined, (error) => {
    // Pages whose copy failed never came, and whoever shares them is told so.
    if (world.moveFaults > 0 && codeOf(error) === "ERR_KVASIR_DEVICE_LOST") return;
    if (error !== undefined) world.fail(`sequence ${entry.id} of ${pages} pages, alone, was refused: ${String(error)}`);
  });
  await settle(world, seed + 1);
  if (world.failure !== undefined || !world.entries.includes(entry)) return;
  if (!world.config.faults && (world.isAmple || world.tiers.length === 0) && entry.text.length < wasLength)
    world.fail(`sequence ${entry.id} came back with ${entry.text.length} of ${wasLength} tokens and nothing had failed`);
  await extend(world, entry, seed);
}

async function extend(world: World, entry: Entry, seed: number): Promise<void> {
  const { devicePages, hostPages } = world.config;
  const isOnly = hostPages === 0 && world.tiers.length === 0; // then the others' pages stay, too
  const kept = Math.max(...world.cache.groups.map(({ pool }) => pool.counts().active + pool.counts().sealed));
  const ids = Math.min(...world.cache.groups.map(({ pool }) => pool.numPages));
  const most = Math.min(ids - kept, devicePages - (isOnly ? kept : Math.ceil(entry.text.length / pageSize)));
  if (most < 2) return;
  const want = 1 + (seed % (most - 1)); // and one for a private copy of a shared last page
  let free = -1;
  world.track(
    "makeRoom",
    world.manager.makeRoom(want + 1),
    (count) => {
      free = count;
    },
    () => false,
  );
  await settle(world, seed + 2);
  if (world.failure !== undefined) return;
  if (free < want + 1)
    world.fail(`makeRoom(${want + 1}) gave ${free} pages with one sequence of ${entry.text.length} tokens running`);
  else if (!step(world, [entry], [want * pageSize], seed))
    world.fail(`sequence ${entry.id}, alone, got no ${want} pages after makeRoom`);
}

/** Leading pages of the sequence that others can find. */
export function sealedPages({ cache }: World, { sequence }: Entry): number {
  const counts = cache.groups.map(({ pool }, group) => {
    const pages = cache.rowPages(group, sequence.row);
    const open = pages.findIndex((page) => page < 0 || !pool.isSealed(page));
    return open < 0 ? pages.length : open;
  });
  return Math.min(...counts);
}

/** A cache that is closed and opened again over the same keyed tiers finds what was flushed; one that crashes finds what it can. */
export async function restart(world: World, number: number, seed: number): Promise<void> {
  if (seed % 2 === 0) {
    world.start();
    return;
  }
  await calm(world, seed);
  const entry = world.pick(number);
  if (entry === undefined || world.failure !== undefined) return;
  const { text } = entry;
  const sealed = Math.min(sealedPages(world, entry), Math.floor((text.length - 1) / pageSize));
  const isSure = world.isAmple && world.config.groups === 1 && sealed <= world.config.devicePages;
  world.track(
    "flush",
    world.manager.flush(entry.sequence),
    () => undefined,
    () => false,
  );
  world.track(
    "close",
    world.manager.close(),
    () => undefined,
    () => false,
  );
  await settle(world, seed + 1);
  if (world.failure !== undefined) return;
  world.start();
  adopt(world, world.open(0, text.salt), text.tokens.slice(0, text.length), undefined, (count) => {
    if (isSure && count < sealed * pageSize)
      world.fail(`${sealed} pages were flushed, but ${count} tokens are found after a restart`);
  });
  await settle(world, seed + 2);
}

/** Lets everybody go: no page stays in use. */
export async function finish(world: World, seed: number): Promise<void> {
  await settle(world, seed);
  for (const pin of world.pins.splice(0)) pin[Symbol.dispose]();
  for (const entry of world.entries.slice()) world.leave(entry);
  await settle(world, seed + 1);
  if (world.failure !== undefined) return;
  for (const [group, { pool }] of world.cache.groups.entries()) {
    for (let page = 0; page < pool.numPages; page++) {
      if (pool.state(page) === ACTIVE && pool.childrenOf(page) === 0)
        world.fail(`page ${page} of group ${group} is in use by nobody`);
    }
    if (pool.counts().sealed > 0) world.fail(`${pool.counts().sealed} pages of group ${group} are referred to by nobody`);
    if (pool.freeSlots(0) + pool.evictable(0) !== pool.numSlots(0))
      world.fail(`${pool.freeSlots(0)} free and ${pool.evictable(0)} evictable slots of ${pool.numSlots(0)} in group ${group}`);
  }
}
