/** A slab file outlives the process that writes it, whenever and however that ends; and a large one is soon open again. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { fillIndex, indexKey } from "../../bench/slab_index.js";
import { fingerprint, identityText } from "../../lib/cache/tier_identity.js";
import { addonPath } from "../../lib/native.js";
import { PAGE_SIZE, SlabFixture, batchOf, contentOf, identityOf, range, roomFor, statuses } from "../slab_fixture.js";

const fixture = new SlabFixture();
const PAGES = 32;
const ROOM = 12;

/** Stores and removes random pages for ever. Speaks to the addon itself, so that it needs no build; `say` tells the parent. */
const writer = `
const { addonPath, path, options, pagesPath, pageBytes, batch, seed, ending } = JSON.parse(process.env.KVASIR_TEST);
const addon = require(addonPath);
const device = addon.openDevice("cpu", 0, 1, 0), stream = device.createStream();
const words = (pages, from, width, Type) => Type.from(pages.flatMap((p) => from.slice(p * width, (p + 1) * width)));
let state = seed;
const random = (n) => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0, Math.floor(state / 4294967296 * n));
(async () => {
  const pool = device.createTensor(4, [${PAGES}, pageBytes]);
  await stream.loadFile(pool, pagesPath, 0);
  const slab = addon.createSlab(path, { ...options, fingerprint: Uint8Array.from(options.fingerprint) }, [pool]);
  await slab.open();
  const store = (pages, id) => slab.store(id, 0, words(pages, batch.keys, 4, Uint32Array), words(pages, batch.parents, 4, Uint32Array),
    words(pages, batch.tokens, ${PAGE_SIZE}, Int32Array), Int32Array.from(pages));
  process.stdout.write("ready");
  for (let id = 0; ; id += 2) {
    const some = () => Array.from({ length: 1 + random(6) }, () => random(${PAGES}));
    const working = [store(some(), id), store(some(), id + 1), slab.remove(0, words(some().slice(0, 2), batch.keys, 4, Uint32Array))];
    if (id > 20 && ending === "exit") process.exit(7);
    if (id > 20 && ending === "throw") throw new Error("ends here");
    await Promise.all(working);
    if (id > 20 && ending === "close") return slab.close();
  }
})();
`;

interface Case {
  engine: "io_uring" | "threads";
  pageBytes: number;
}

class Setup {
  readonly path = fixture.path();
  readonly pool;
  readonly batch = batchOf(range(0, PAGES));
  readonly #pagesPath = fixture.path();

  constructor(readonly of: Case) {
    this.pool = fixture.pool(PAGES, of.pageBytes);
    writeFileSync(this.#pagesPath, Buffer.concat(range(0, PAGES).map((number) => contentOf(number, 0, of.pageBytes))));
  }

  get maxBytes(): number {
    return roomFor(ROOM, this.of.pageBytes);
  }

  environment(ending: string): NodeJS.ProcessEnv {
    const identity = identityOf([this.of.pageBytes]);
    const options = {
      maxBytes: this.maxBytes,
      pageSize: PAGE_SIZE,
      fingerprint: [...fingerprint(identity)],
      identity: identityText(identity),
      engine: this.of.engine === "io_uring" ? 1 : 2,
      resets: false,
      syncMs: -1,
      refusesDirect: false,
    };
    const { keys, parents, tokens } = this.batch;
    const batch = { keys: [...keys], parents: [...parents], tokens: [...tokens] };
    const { pageBytes } = this.of;
    const seed = Math.floor(Math.random() * 2 ** 32);
    const all = { addonPath: addonPath(), path: this.path, options, pagesPath: this.#pagesPath, pageBytes, batch, seed, ending };
    return { ...process.env, KVASIR_TEST: JSON.stringify(all) };
  }

  /** Opens the file and loads everything: each page is right or not there. Returns how many are. */
  async verify(): Promise<number> {
    await fixture.poison(this.pool);
    const { path, maxBytes } = this;
    const tier = await fixture.open([this.pool], { path, maxBytes, engine: this.of.engine });
    const found = await tier.load(this.batch);
    await tier.close();
    const bytes = (await this.pool.read()) as Uint8Array;
    for (const number of range(0, PAGES)) {
      expect([0, 1], `page ${number}`).toContain(found[number]);
      if (found[number] !== 0) continue;
      const page = bytes.subarray(number * this.of.pageBytes, (number + 1) * this.of.pageBytes);
      expect(Buffer.compare(page, contentOf(number, 0, this.of.pageBytes)), `page ${number}`).toBe(0);
    }
    return found.filter((status) => status === 0).length;
  }
}

async function killed(child: ChildProcess): Promise<void> {
  const ready = once(child.stdout!, "data");
  const ended = once(child, "exit");
  await Promise.race([ready, ended]);
  expect(child.exitCode, "the writer lives until it is killed").toBe(null);
  await new Promise((resolve) => setTimeout(resolve, Math.random() * 15));
  child.kill("SIGKILL");
  await ended;
}

test.each([
  { engine: "io_uring", pageBytes: 262_144 },
  { engine: "threads", pageBytes: 100_001 },
] satisfies Case[])("a process that is killed in the middle of writes: $engine", async (of) => {
  const setup = new Setup(of);
  let seen = 0;
  for (let kill = 0; kill < 4; kill++) {
    const env = setup.environment("kill");
    await killed(spawn(process.execPath, ["-e", writer], { env, stdio: ["ignore", "pipe", "inherit"] }));
    seen += await setup.verify();
  }
  expect(seen, "pages that outlived a kill").toBeGreaterThan(4);
});

const answers = (program: string): boolean => spawnSync(program, ["--version"]).status === 0;
const compiler = [process.env.CXX, "c++", "g++", "clang++"].find((program) => program !== undefined && answers(program));
const why = compiler === undefined ? ": no C++ compiler on this host" : "";

test.skipIf(compiler === undefined)(`200 kills: no wrong byte, and no page named before it was whole${why}`, () => {
  const program = join(fixture.folder, "slab_kill_test");
  const parts = ["slab_driver", "slab_file", "slab_index", "slab_pages", "slab_room", "slab_sectors"];
  const files = [...parts, "io_faults", "io_ring", "io_threads", "failure"].map((part) => `native/addon/${part}.cc`);
  const options = ["-std=c++20", "-O0", "-pthread", "-Wall", "-Wextra"];
  const built = spawnSync(compiler as string, [...options, "tests/native/slab_kill_test.cc", ...files, "-o", program]);
  expect(built.status, String(built.stderr)).toBe(0);
  const ran = spawnSync(program, [fixture.folder, "200"], { encoding: "utf8" });
  const [, found] = /^200 kills, (\d+) pages found, 0 failed\n$/.exec(ran.stdout) ?? [ran.stdout];
  expect(Number(found), `pages that outlived a kill: ${found}`).toBeGreaterThan(200);
});

test.each([
  ["exit", 7],
  ["throw", 1],
  ["close", 0],
])("a process that ends while pages are on their way: %s", async (ending, status) => {
  for (const engine of ["io_uring", "threads"] as const) {
    const setup = new Setup({ engine, pageBytes: 65_536 });
    const env = setup.environment(ending);
    const child = spawnSync(process.execPath, ["-e", writer], { env, encoding: "utf8", timeout: 30_000 });
    expect([child.signal, child.status, child.stdout], child.stderr).toEqual([null, status, "ready"]);
    expect(await setup.verify()).toBeGreaterThan(0);
  }
});

test("a million pages are found again", async () => {
  const pages = 1_000_000;
  const path = join(fixture.folder, "million.slab");
  const pool = fixture.pool(2, 4096);
  const options = { path, maxBytes: 2 ** 34 };
  const fresh = await fixture.open([pool], options);
  const { slotBytes } = fresh.describe();
  await fresh.close();
  fillIndex(path, pages, slotBytes, 4096);
  const tier = await fixture.open([pool], options);
  expect(tier.stats()).toMatchObject({ pages, bytes: pages * 4096 });
  expect(tier.describe().droppedEntries).toBe(0);
  const slots = Array.from({ length: 1000 }, () => Math.floor(Math.random() * pages));
  const keys = Uint32Array.from(slots.flatMap((slot) => [...indexKey(slot)]));
  expect(statuses(await tier.lookup(0, keys))).toBe("1".repeat(1000));
  expect(
    statuses(
      await tier.lookup(
        0,
        keys.map((word) => word ^ 1),
      ),
    ),
  ).toBe("0".repeat(1000));
  const batch = { ...batchOf([1]), keys: indexKey(pages - 1) };
  expect(statuses(await tier.load(batch)), "holes are no pages").toBe("2");
  expect(tier.stats().pages).toBe(pages - 1);
  expect(statuses(await tier.store(batchOf([1])))).toBe("0");
  await tier.close();
});
