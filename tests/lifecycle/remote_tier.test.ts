/** The remote tier over a real server: what was stored comes back, bit by bit, or not at all. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { DAMAGED, LOADED, MISSING, type PageBatch, PRESENT, REFUSED, STORED } from "../../lib/cache/tier_driver.js";
import { fingerprint } from "../../lib/cache/tier_identity.js";
import { expectRejection } from "../expect_error.js";
import { onRedis, RedisServer } from "../redis_server.js";
import { at, identityOf, pick, RemoteFixture, randomWords } from "../remote_fixture.js";

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);
const all = (count: number, status: number): number[] => new Array(count).fill(status);

onRedis("the remote tier", () => {
  let server: RedisServer;
  let fixture: RemoteFixture;
  beforeAll(async () => {
    server = await RedisServer.start();
  });
  afterAll(() => server.stop());
  afterEach(async () => {
    await fixture.dispose();
    await server.command("FLUSHALL");
  });

  /** The server's key of a page. */
  function nameOf(batch: PageBatch, page: number, identity = fixture.identity): string {
    const { buffer, byteOffset } = batch.keys;
    const key = Buffer.from(buffer, byteOffset + 16 * page, 16).toString("hex");
    return `kvasir:${Buffer.from(fingerprint(identity)).toString("hex")}:${batch.group}:${key}`;
  }

  test("gives back what it was given: groups of different sizes, batches of different lengths", async () => {
    fixture = new RemoteFixture([3001, 70_000, 2_500_000], 32);
    const tier = await fixture.open(server.url, { windowBytes: 6 * 2 ** 20 });
    for (const group of [0, 1, 2]) {
      for (const count of [1, 2, 7, 16]) {
        const batch = await fixture.pages(group, range(0, count));
        expect(Array.from(await tier.lookup(group, batch.keys))).toEqual(all(count, 0));
        expect(Array.from(await tier.store(batch))).toEqual(all(count, STORED));
        expect(Array.from(await tier.lookup(group, batch.keys))).toEqual(all(count, 1));
        expect(Array.from(await tier.store(batch))).toEqual(all(count, PRESENT));
        await fixture.poison();
        const slots = range(16, 16 + count).reverse();
        expect(Array.from(await tier.load(at(batch, slots)))).toEqual(all(count, LOADED));
        await fixture.expectSlots(at(batch, slots));
        await fixture.expectSlots(at(batch, range(0, count)), () => false);
        await tier.remove(group, batch.keys);
        expect(Array.from(await tier.lookup(group, batch.keys))).toEqual(all(count, 0));
      }
    }
    const stats = tier.stats();
    expect([stats.pages, stats.bytes, stats.loads, stats.stores]).toEqual([0, 0, 78, 78]);
    expect([stats.misses, stats.damaged, stats.failures, stats.refused]).toEqual([0, 0, 0, 0]);
    expect(stats.copied, "pages that did not come straight from the socket").toBe(0);
    expect(stats.storedBytes).toBeGreaterThan(26 * (3001 + 70_000 + 2_500_000));
    expect(fixture.warnings).toEqual([]);
  });

  test("works as well with a client that makes its sockets in its own way", async () => {
    fixture = new RemoteFixture([3001, 70_000], 32);
    const folder = mkdtempSync(join(tmpdir(), "kvasir-client-"));
    try {
      const path = join(folder, "client.mjs");
      writeFileSync(
        path,
        `import { createRequire } from "node:module";
        const redis = createRequire(${JSON.stringify(import.meta.url)})("redis");
        export const { RESP_TYPES } = redis;
        export const createClient = (options) =>
          redis.createClient({ ...options, socket: Object.fromEntries(Object.entries(options.socket)) });`,
      );
      const tier = await fixture.open(server.url, { client: pathToFileURL(path).href });
      for (const group of [0, 1]) {
        const batch = await fixture.pages(group, range(0, 8));
        await tier.store(batch);
        await fixture.poison();
        expect(Array.from(await tier.load(at(batch, range(8, 16))))).toEqual(all(8, LOADED));
        await fixture.expectSlots(at(batch, range(8, 16)));
      }
      expect(tier.stats().copied).toBe(16);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("takes batches that the caller changes at once, several at a time", async () => {
    fixture = new RemoteFixture([10_000], 64);
    const tier = await fixture.open(server.url);
    const batches = [];
    for (let i = 0; i < 4; i++) batches.push(await fixture.pages(0, range(16 * i, 16 * i + 16)));
    const kept = batches.map((batch) => pick(batch, range(0, 16)));
    const storing = batches.map((batch) => tier.store(batch));
    for (const batch of batches) for (const array of [batch.keys, batch.parents, batch.tokens, batch.slots]) array.fill(0);
    for (const statuses of await Promise.all(storing)) expect(Array.from(statuses)).toEqual(all(16, STORED));
    await fixture.poison();
    const loaded = await Promise.all(kept.map((batch) => tier.load(batch)));
    for (const statuses of loaded) expect(Array.from(statuses)).toEqual(all(16, LOADED));
    for (const batch of kept) await fixture.expectSlots(batch);
  });

  test("says which pages are missing, and leaves their slots alone", async () => {
    fixture = new RemoteFixture([5000]);
    const tier = await fixture.open(server.url);
    const batch = await fixture.pages(0, range(0, 20));
    const stored = (page: number): boolean => page % 3 === 0;
    await tier.store(pick(batch, range(0, 20).filter(stored)));
    await fixture.poison();
    expect(Array.from(await tier.lookup(0, batch.keys))).toEqual(range(0, 20).map((page) => Number(stored(page))));
    expect(Array.from(await tier.load(batch))).toEqual(range(0, 20).map((page) => (stored(page) ? LOADED : MISSING)));
    await fixture.expectSlots(batch, stored);
    expect(tier.stats().misses).toBe(13);
  });

  test("looks up more keys than go into one question", async () => {
    fixture = new RemoteFixture([64], 64);
    const tier = await fixture.open(server.url);
    const batch = await fixture.pages(0, range(0, 40));
    await tier.store(batch);
    const keys = randomWords(4 * 10_000);
    const present = new Set<number>();
    for (let page = 0; page < 40; page++) {
      const place = page < 20 ? page : 250 * page;
      keys.set(batch.keys.subarray(4 * page, 4 * page + 4), 4 * place);
      present.add(place);
    }
    const found = await tier.lookup(0, keys);
    expect(range(0, 10_000).filter((place) => found[place] === 1)).toEqual([...present].sort((a, b) => a - b));
  });

  test("finds a flipped bit in every field of the header and in the payload, and deletes the page", async () => {
    fixture = new RemoteFixture([4000]);
    const tier = await fixture.open(server.url);
    const batch = await fixture.pages(0, [0]);
    await tier.store(batch);
    const name = nameOf(batch, 0);
    const value = (await server.command("GET", name)) as Buffer;
    expect(value.length).toBe(192 + 4000); // 88 bytes, 16 tokens and a checksum, rounded to 64
    const headers = [0, 8, 12, 16, 32, 48, 64, 68, 72, 80, 84, 88, 150, 155, 170, 191];
    const places = [...headers, 192, 192 + 1999, 192 + 3999];
    for (const place of places) {
      for (const bit of [0, 7]) {
        const flipped = Buffer.from(value);
        flipped[place] = (flipped[place] as number) ^ (1 << bit);
        await server.command("SET", name, flipped);
        expect(Array.from(await tier.load(at(batch, [1]))), `byte ${place}, bit ${bit}`).toEqual([DAMAGED]);
        expect(await server.command("EXISTS", name)).toBe(0);
      }
    }
    for (const other of [Buffer.alloc(0), value.subarray(0, 100), value.subarray(0, -1), Buffer.concat([value, value])]) {
      await server.command("SET", name, other);
      expect(Array.from(await tier.load(at(batch, [1])))).toEqual([DAMAGED]);
      expect(await server.command("EXISTS", name)).toBe(0);
    }
    expect(tier.stats().damaged).toBe(2 * places.length + 4);
    await server.command("SET", name, value);
    await fixture.poison();
    expect(Array.from(await tier.load(at(batch, [1])))).toEqual([LOADED]);
    await fixture.expectSlots(at(batch, [1]));
  });

  test("takes no page for another: other tokens, parents, keys, groups and identities", async () => {
    fixture = new RemoteFixture([4000, 4000]);
    const tier = await fixture.open(server.url);
    const batch = await fixture.pages(0, [0, 1]);
    const stranger = { ...fixture.identity, model: "another" };
    const theirs = await fixture.open(server.url, { identity: stranger });
    await theirs.store(batch);
    expect(Array.from(await tier.lookup(0, batch.keys))).toEqual([0, 0]);
    expect(Array.from(await tier.load(batch))).toEqual([MISSING, MISSING]);
    await tier.store(batch);
    const tokens = batch.tokens.slice();
    tokens[17] = (tokens[17] as number) + 1;
    expect(Array.from(await tier.load({ ...batch, tokens }))).toEqual([LOADED, DAMAGED]);
    await tier.store(batch);
    const parents = batch.parents.slice();
    parents[3] = (parents[3] as number) ^ 1;
    expect(Array.from(await tier.load({ ...batch, parents }))).toEqual([DAMAGED, LOADED]);
    await tier.store(batch);
    // Values that somebody put under the wrong key.
    const copies = [
      [nameOf(batch, 1), nameOf(batch, 0)],
      [nameOf(batch, 0, stranger), nameOf(batch, 0)],
      [nameOf(batch, 0), nameOf({ ...batch, group: 1 }, 0)],
    ] as const;
    for (const [from, to] of copies) {
      await tier.store(batch);
      await server.command("COPY", from, to, "REPLACE");
      const wrong = pick({ ...batch, group: to.includes(":1:") ? 1 : 0 }, [0]);
      expect(Array.from(await tier.load(wrong))).toEqual([DAMAGED]);
    }
  });

  test("a page that is not full is told from one whose next token is known", async () => {
    fixture = new RemoteFixture([1000]);
    const tier = await fixture.open(server.url);
    const batch = await fixture.pages(0, [0]);
    batch.tokens.fill(-1, 9);
    await tier.store(batch);
    expect(Array.from(await tier.load(batch))).toEqual([LOADED]);
    batch.tokens[9] = 0;
    expect(Array.from(await tier.load(batch))).toEqual([DAMAGED]);
  });

  test("a value of another type under the key is damaged, too, and no failure of the server", async () => {
    fixture = new RemoteFixture([1000]);
    const tier = await fixture.open(server.url, { failuresToOpen: 1 });
    const batch = await fixture.pages(0, [0, 1]);
    await server.command("LPUSH", nameOf(batch, 0), "x");
    expect(Array.from(await tier.load(batch))).toEqual([DAMAGED, MISSING]);
    expect(await server.command("EXISTS", nameOf(batch, 0))).toBe(0);
    expect(tier.isConnected).toBe(true);
  });

  test("refreshes the time to live of pages that are used", async () => {
    fixture = new RemoteFixture([1000]);
    const tier = await fixture.open(server.url, { ttlSeconds: 1000 });
    const batch = await fixture.pages(0, [0]);
    const name = nameOf(batch, 0);
    const uses: (() => Promise<unknown>)[] = [
      () => tier.store(batch),
      () => tier.lookup(0, batch.keys),
      () => tier.store(batch),
      () => tier.load(batch),
    ];
    for (const use of uses) {
      await use();
      expect(await server.command("TTL", name)).toBeGreaterThan(900);
      await server.command("EXPIRE", name, "500");
    }
    const forever = await fixture.open(server.url);
    const another = await fixture.pages(0, [1]);
    await forever.store(another);
    expect(await server.command("TTL", nameOf(another, 0))).toBe(-1);
  });

  test("keeps what is in flight within its window", async () => {
    fixture = new RemoteFixture([100_000], 64);
    for (const [windowBytes, most] of [
      [102_400, 102_400],
      [400_000, 397_312],
      [2 ** 30, 33 * 102_400],
    ] as const) {
      const tier = await fixture.open(server.url, { windowBytes });
      const batch = await fixture.pages(0, range(0, 32));
      expect(Array.from(await tier.store(batch))).toEqual(all(32, STORED));
      expect(Array.from(await tier.load(at(batch, range(32, 64))))).toEqual(all(32, LOADED));
      await fixture.expectSlots(at(batch, range(32, 64)));
      expect(tier.peakBytesInFlight).toBeLessThanOrEqual(most);
      expect(tier.peakBytesInFlight).toBeGreaterThan(Math.min(most, windowBytes) / 2);
      await tier.close();
    }
  });

  test("a server without room refuses pages, and goes on answering", async () => {
    const small = await RedisServer.start(["--maxmemory", "4mb", "--maxmemory-policy", "noeviction"]);
    try {
      fixture = new RemoteFixture([500_000]);
      const tier = await fixture.open(small.url);
      const batch = await fixture.pages(0, range(0, 20));
      const statuses = Array.from(await tier.store(batch));
      expect(new Set(statuses)).toEqual(new Set([STORED, REFUSED]));
      expect([tier.isConnected, fixture.warnings]).toEqual([true, []]);
      expect(Array.from(await tier.load(batch))).toEqual(statuses.map((status) => (status === STORED ? LOADED : MISSING)));
    } finally {
      await small.stop();
    }
  });

  test("empty batches", async () => {
    fixture = new RemoteFixture([1000]);
    const tier = await fixture.open(server.url);
    const batch = await fixture.pages(0, []);
    expect([await tier.store(batch), await tier.load(batch), await tier.lookup(0, batch.keys)]).toEqual([
      new Uint8Array(0),
      new Uint8Array(0),
      new Uint8Array(0),
    ]);
    await tier.remove(0, batch.keys);
  });

  test("batches and options that make no sense", async () => {
    fixture = new RemoteFixture([1000]);
    const tier = await fixture.open(server.url);
    const batch = await fixture.pages(0, [0, 1]);
    const wrong = "ERR_KVASIR_INVALID_ARGUMENT";
    await expectRejection(wrong, ["group is 1"], tier.load({ ...batch, group: 1 }));
    await expectRejection(wrong, ["group is -1"], tier.lookup(-1, batch.keys));
    await expectRejection(wrong, ["group is 0.5"], tier.remove(0.5, batch.keys));
    await expectRejection(wrong, ["keys has 4 entries, expected 8"], tier.store({ ...batch, keys: batch.keys.slice(4) }));
    await expectRejection(wrong, ["tokens has 31"], tier.store({ ...batch, tokens: batch.tokens.slice(1) }));
    await expectRejection("ERR_KVASIR_PAGE_OUT_OF_RANGE", ["64"], tier.store(at(batch, [0, 64])));
    await expectRejection("ERR_KVASIR_PAGE_OUT_OF_RANGE", ["-1"], tier.store(at(batch, [-1, 0])));
    for (const [options, part] of [
      [{ url: "http://localhost" }, /url begins with "http:"/],
      [{ url: "redis://localhost/text" }, /path "\/text"/],
      [{ url: "localhost:6379" }, /url/],
      [{ url: 7 }, /url is 7/],
      [{ connections: 0 }, /connections is 0/],
      [{ windowBytes: 1000 }, /windowBytes is 1000, expected at least 4096/],
      [{ timeoutMs: 0 }, /timeoutMs is 0/],
      [{ ttlSeconds: 1.5 }, /ttlSeconds is 1.5/],
      [{ pools: [] }, /pools is an array of 0/],
      [{ identity: identityOf([2000]) }, /pools\[0\] has pages of 1000 bytes, expected 2000/],
      [{ onWarning: "loud" }, /onWarning is "loud"/],
    ] as const) {
      await expectRejection(wrong, [part], fixture.open(server.url, options as object));
    }
    await expectRejection("ERR_KVASIR_UNKNOWN_OPTION", ["connections"], fixture.open(server.url, { conections: 3 } as object));
  });

  describe("several processes", () => {
    const built = pathToFileURL(join(fileURLToPath(new URL("../../", import.meta.url)), "dist", "lib", "index.js")).href;
    /** Runs a module that has `open`, `pool` and `identity`; its output is the answer. */
    async function child(body: string): Promise<string> {
      const script = `import { openDevice, openRemoteTier } from ${JSON.stringify(built)};
        const identity = ${JSON.stringify(fixture.identity)};
        const device = openDevice("cpu");
        const pool = device.zeros("u8", [4, ${fixture.identity.groups[0]?.pageBytes}]);
        const tier = await openRemoteTier({ url: ${JSON.stringify(server.url)}, identity, pools: [pool] });
        ${body}`;
      const running = spawn(process.execPath, ["--input-type=module"], { stdio: ["pipe", "pipe", "pipe"] });
      running.stdin.end(script);
      let out = "";
      let err = "";
      running.stdout.on("data", (text) => {
        out += text;
      });
      running.stderr.on("data", (text) => {
        err += text;
      });
      const [status] = await once(running, "exit");
      expect([status, err]).toEqual([0, ""]);
      return out.trim();
    }

    test("share pages", async () => {
      fixture = new RemoteFixture([200_000]);
      const batch = await fixture.pages(0, [0, 1, 2, 3]);
      const bytes = (await fixture.pools[0]?.slice(0, 4).read()) as Uint8Array;
      const batchText = JSON.stringify({ ...batch, slots: [0, 1, 2, 3] }, (_, value) =>
        ArrayBuffer.isView(value) ? Array.from(value as Int32Array) : value,
      );
      const out = await child(`
        const { keys, parents, tokens, slots } = ${batchText};
        await pool.write(Buffer.from("${Buffer.from(bytes).toString("base64")}", "base64"));
        const batch = { group: 0, keys: Uint32Array.from(keys), parents: Uint32Array.from(parents), tokens: Int32Array.from(tokens) };
        console.log(Array.from(await tier.store({ ...batch, slots: Int32Array.from(slots) })).join());
        await tier.close();
        device.dispose();`);
      expect(out).toBe(all(4, STORED).join());
      const tier = await fixture.open(server.url);
      await fixture.poison();
      expect(Array.from(await tier.lookup(0, batch.keys))).toEqual(all(4, 1));
      expect(Array.from(await tier.store(batch))).toEqual(all(4, PRESENT));
      expect(Array.from(await tier.load(at(batch, [7, 8, 9, 10])))).toEqual(all(4, LOADED));
      await fixture.expectSlots(at(batch, [7, 8, 9, 10]));
    });

    test("end although a tier is open, and while it works", async () => {
      fixture = new RemoteFixture([200_000]);
      expect(await child(`console.log("open")`)).toBe("open");
      const busy = `const keys = new Uint32Array(16).map((_, i) => i);
        const batch = { group: 0, keys, parents: new Uint32Array(16), tokens: new Int32Array(64), slots: Int32Array.of(0, 1, 2, 3) };`;
      expect(await child(`${busy} tier.store(batch); console.log("busy"); process.exit(0);`)).toBe("busy");
      expect(await child(`${busy} tier.store(batch).then((s) => console.log("done " + s.length));`)).toBe("done 4");
    });
  });
});
