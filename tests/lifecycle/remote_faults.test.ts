/** The remote tier when the server dies, hangs, comes late or never was: no hang, no crash, no wrong page, and it comes back by itself. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { RemoteTier } from "../../lib/cache/remote_tier.js";
import { FAILED, LOADED, MISSING, type PageBatch, PRESENT, REFUSED, STORED } from "../../lib/cache/tier_driver.js";
import { expectRejection } from "../expect_error.js";
import { freePort, onRedis, RedisServer, ReplyGate } from "../redis_server.js";
import { at, pick, RemoteFixture, until } from "../remote_fixture.js";

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);
const all = (count: number, status: number): number[] => new Array(count).fill(status);

/** Whether the tier takes and gives a page. */
async function works(tier: RemoteTier, batch: PageBatch): Promise<boolean> {
  const [stored] = await tier.store(pick(batch, [0]));
  const [loaded] = await tier.load(pick(batch, [0]));
  return (stored === STORED || stored === PRESENT) && loaded === LOADED;
}

onRedis("the remote tier in trouble", () => {
  let server: RedisServer;
  let gate: ReplyGate;
  let fixture: RemoteFixture;
  beforeAll(async () => {
    server = await RedisServer.start();
    gate = await ReplyGate.start(server.port);
  });
  afterAll(async () => {
    gate.stop();
    await server.stop();
  });
  afterEach(async () => {
    gate.hold(false);
    await fixture.dispose();
    await server.command("FLUSHALL");
  });

  describe("a server that dies", () => {
    test("in the middle of stores and loads: all of them end, none with a wrong page; it is used again when it is back", async () => {
      fixture = new RemoteFixture([300_000], 64);
      const tier = await fixture.open(server.url, { windowBytes: 2 * 2 ** 20 });
      const batch = await fixture.pages(0, range(0, 32));
      const known = pick(batch, range(0, 16));
      await tier.store(known);
      await fixture.poison();
      const loading: Promise<Uint8Array>[] = [];
      const busy = [];
      for (let i = 0; i < 8; i++) {
        loading.push(tier.load(at(known, range(32, 48))));
        busy.push(tier.store(batch), tier.lookup(0, batch.keys));
      }
      await loading[0];
      await server.kill();
      await Promise.all(busy);
      const loaded = (await Promise.all(loading)).map((statuses) => Array.from(statuses));
      expect(loaded[0]).toEqual(all(16, LOADED));
      expect(new Set(loaded.flat())).toEqual(new Set([LOADED, FAILED]));
      await fixture.expectSlots(at(known, range(32, 48)));
      await until(() => !tier.isConnected, "the breaker opened");
      expect(fixture.warnings).toHaveLength(1);
      expect(fixture.warnings[0]).toContain(`127.0.0.1:${server.port}`);

      expect(Array.from(await tier.lookup(0, batch.keys))).toEqual(all(32, 0));
      expect(Array.from(await tier.load(batch))).toEqual(all(32, FAILED));
      expect(Array.from(await tier.store(batch))).toEqual(all(32, REFUSED));

      await server.start();
      const fresh = await fixture.pages(0, [50]);
      await until(async () => tier.isConnected && (await works(tier, fresh)), "it was used again");
      expect(Array.from(await tier.load(at(known, range(0, 16))))).toEqual(all(16, MISSING)); // what it held is gone
    });

    test("and comes back before anybody asks", async () => {
      fixture = new RemoteFixture([1000]);
      const tier = await fixture.open(server.url);
      const batch = await fixture.pages(0, [0]);
      await server.kill();
      await server.start();
      await until(() => works(tier, batch), "it was used again");
    });

    test("connections that break are made again", async () => {
      fixture = new RemoteFixture([1000]);
      const tier = await fixture.open(gate.url, { connections: 3 });
      const batch = await fixture.pages(0, [0]);
      for (let i = 0; i < 3; i++) {
        await until(() => works(tier, batch), "it was used again");
        await until(() => gate.connections === 4, "all connections were there");
        gate.breakAll();
      }
      await until(() => works(tier, batch), "it was used again");
    });
  });

  describe("a server that hangs", () => {
    test("costs each request its deadline, then nothing; nobody else waits; late replies change no slot", async () => {
      fixture = new RemoteFixture([200_000], 64);
      const tier = await fixture.open(gate.url, { timeoutMs: 300, windowBytes: 2 ** 20 });
      const batch = await fixture.pages(0, range(0, 32));
      await tier.store(batch);
      await fixture.poison();
      gate.hold(true);
      let turns = 0;
      let isDone = false;
      const loading = tier.load(batch).finally(() => {
        isDone = true;
      });
      for (; !isDone; turns++) await nextTurn();
      expect(Array.from(await loading)).toEqual(all(32, FAILED));
      expect(turns).toBeGreaterThan(100);
      expect(tier.isConnected).toBe(false);
      expect(fixture.warnings[0]).toContain("no reply within 300 ms");
      expect(Array.from(await tier.load(batch))).toEqual(all(32, FAILED));
      gate.hold(false);
      await until(() => tier.isConnected, "it answers again");
      await fixture.expectSlots(batch, () => false);
      expect(Array.from(await tier.load(batch))).toEqual(all(32, LOADED));
      await fixture.expectSlots(batch);
      expect(tier.peakBytesInFlight).toBeLessThanOrEqual(2 ** 20);
      expect(fixture.warnings).toHaveLength(1);
    });

    test("a paused one", async () => {
      fixture = new RemoteFixture([1000]);
      const tier = await fixture.open(server.url, { timeoutMs: 200 });
      const batch = await fixture.pages(0, range(0, 4));
      await server.command("CLIENT", "PAUSE", "1000", "ALL");
      expect(Array.from(await tier.store(batch))).toEqual(all(4, FAILED));
      await until(async () => tier.isConnected && (await works(tier, batch)), "it was used again");
    });

    test("when it is opened", async () => {
      fixture = new RemoteFixture([1000]);
      gate.hold(true);
      const tier = await fixture.open(gate.url, { timeoutMs: 200 });
      expect(tier.isConnected).toBe(false);
      gate.hold(false);
      await until(() => tier.isConnected, "it answers");
    });
  });

  describe("an abort", () => {
    test("ends a load at once; pages that come later go nowhere, and the window is whole again", async () => {
      fixture = new RemoteFixture([200_000], 64);
      const tier = await fixture.open(gate.url, { windowBytes: 2 ** 20, timeoutMs: 20_000 });
      const batch = await fixture.pages(0, range(0, 32));
      await tier.store(batch);
      await fixture.poison();
      gate.hold(true);
      const stop = new AbortController();
      const loading = tier.load(batch, stop.signal);
      const looking = tier.lookup(0, batch.keys, stop.signal);
      for (let i = 0; i < 50; i++) await nextTurn();
      stop.abort();
      expect(Array.from(await loading)).toEqual(all(32, FAILED));
      expect(Array.from(await looking)).toEqual(all(32, 0));
      expect(tier.bytesInFlight).toBeGreaterThan(0); // what was sent is still to come
      gate.hold(false);
      await until(() => tier.bytesInFlight === 0, "the window was whole again");
      expect(Array.from(await tier.load(at(batch, range(32, 64))))).toEqual(all(32, LOADED));
      await fixture.expectSlots(at(batch, range(32, 64)));
      await fixture.expectSlots(batch, () => false);
      expect(tier.isConnected).toBe(true);
    });

    test("ends a store at once; a page is there whole or not at all", async () => {
      fixture = new RemoteFixture([200_000], 64);
      const tier = await fixture.open(gate.url, { windowBytes: 2 ** 20, timeoutMs: 20_000 });
      const batch = await fixture.pages(0, range(0, 32));
      const stop = new AbortController();
      const storing = tier.store(batch, stop.signal);
      await until(async () => (await tier.lookup(0, batch.keys)).some((flag) => flag === 1), "some were stored");
      stop.abort();
      const statuses = Array.from(await storing);
      for (const slot of batch.slots) await fixture.pools[0]?.slice(slot, slot + 1).write(new Uint8Array(200_000));
      await fixture.poison();
      const loaded = Array.from(await tier.load(at(batch, range(32, 64))));
      for (const [page, status] of statuses.entries()) {
        expect([STORED, FAILED]).toContain(status);
        if (status === STORED) expect(loaded[page]).toBe(LOADED);
        else expect([LOADED, MISSING]).toContain(loaded[page]);
      }
      await fixture.expectSlots(at(batch, range(32, 64)), (page) => loaded[page] === LOADED);
    });

    test("before the call", async () => {
      fixture = new RemoteFixture([1000]);
      const tier = await fixture.open(server.url);
      const batch = await fixture.pages(0, [0, 1]);
      const signal = AbortSignal.abort();
      expect(Array.from(await tier.store(batch, signal))).toEqual([FAILED, FAILED]);
      expect(Array.from(await tier.load(batch, signal))).toEqual([FAILED, FAILED]);
      expect(Array.from(await tier.lookup(0, batch.keys, signal))).toEqual([0, 0]);
      expect(await works(tier, batch)).toBe(true);
    });
  });

  describe("closing", () => {
    test("while it works: what is under way ends, and then the tier holds nothing", async () => {
      fixture = new RemoteFixture([200_000], 64);
      const tier = await fixture.open(server.url, { windowBytes: 2 ** 20 });
      const batch = await fixture.pages(0, range(0, 32));
      await tier.store(pick(batch, range(0, 16)));
      await fixture.poison();
      const loading = tier.load(at(pick(batch, range(0, 16)), range(32, 48)));
      const storing = tier.store(batch);
      await Promise.all([tier.close(), tier.close()]);
      expect(Array.from(await loading)).toEqual(all(16, LOADED));
      await fixture.expectSlots(at(pick(batch, range(0, 16)), range(32, 48)));
      expect(Array.from(await storing)).toEqual([...all(16, PRESENT), ...all(16, STORED)]);
      expect(Array.from(await tier.lookup(0, batch.keys))).toEqual(all(32, 0));
      expect(Array.from(await tier.load(batch))).toEqual(all(32, FAILED));
      expect(Array.from(await tier.store(batch))).toEqual(all(32, REFUSED));
      await tier.remove(0, batch.keys);
      await tier.close();
      expect(fixture.warnings).toEqual([]);
    });

    test("while the server hangs", async () => {
      fixture = new RemoteFixture([1000]);
      const tier = await fixture.open(gate.url, { timeoutMs: 200 });
      const batch = await fixture.pages(0, [0]);
      gate.hold(true);
      const storing = tier.store(batch);
      await tier.close();
      expect(Array.from(await storing)).toEqual([FAILED]);
    });

    test("its device, while pages are copied, harms nobody", async () => {
      fixture = new RemoteFixture([2 ** 20], 64);
      const tier = await fixture.open(server.url);
      const batch = await fixture.pages(0, range(0, 32));
      await tier.store(batch);
      const loading = tier.load(at(batch, range(32, 64)));
      for (let i = 0; i < 20; i++) await nextTurn();
      fixture.device.dispose();
      await loading.catch((error: unknown) => expect(error).toMatchObject({ code: "ERR_KVASIR_DISPOSED" }));
      await expectRejection("ERR_KVASIR_DISPOSED", [/dispose/], tier.load(batch));
    });
  });

  describe("opening", () => {
    test("without a server: says so once, holds nothing, and uses it once it is there", async () => {
      fixture = new RemoteFixture([1000]);
      const port = await freePort();
      const tier = await fixture.open(`redis://user:secret@127.0.0.1:${port}`);
      const batch = await fixture.pages(0, [0]);
      expect(tier.isConnected).toBe(false);
      expect([await tier.lookup(0, batch.keys), await tier.load(batch), await tier.store(batch)]).toEqual([
        Uint8Array.of(0),
        Uint8Array.of(FAILED),
        Uint8Array.of(REFUSED),
      ]);
      await until(() => fixture.warnings.length > 0, "it warned");
      for (let i = 0; i < 20; i++) await new Promise((resolve) => setTimeout(resolve, 20));
      expect(fixture.warnings).toHaveLength(1);
      expect(fixture.warnings[0]).toMatch(new RegExp(`redis://127\\.0\\.0\\.1:${port}.*ECONNREFUSED.*runs on without it`));
      expect(fixture.warnings[0]).not.toContain("secret");
      expect([tier.stats().failures, tier.stats().refused]).toEqual([1, 1]);
    });

    test("with a server that comes later", async () => {
      const late = await RedisServer.start();
      try {
        await late.kill();
        fixture = new RemoteFixture([1000]);
        const tier = await fixture.open(late.url);
        const batch = await fixture.pages(0, [0]);
        expect(tier.isConnected).toBe(false);
        await late.start();
        await until(async () => tier.isConnected && (await works(tier, batch)), "it was used");
        await late.kill();
        await until(async () => (await tier.load(batch))[0] === FAILED && !tier.isConnected, "it went away");
        await until(() => fixture.warnings.length === 2, "it warned again");
      } finally {
        await late.stop();
      }
    });

    test("with a password that is wrong", async () => {
      const locked = await RedisServer.start(["--requirepass", "right"]);
      try {
        fixture = new RemoteFixture([1000]);
        const batch = await fixture.pages(0, [0]);
        const refused = await fixture.open(`redis://:wrong@127.0.0.1:${locked.port}`);
        expect(refused.isConnected).toBe(false);
        await until(() => /WRONGPASS/.test(fixture.warnings[0] ?? ""), "it said why");
        expect(await works(await fixture.open(`valkey://:right@127.0.0.1:${locked.port}/3`), batch)).toBe(true);
      } finally {
        await locked.stop();
      }
    });

    test("without the client package", async () => {
      fixture = new RemoteFixture([1000]);
      await expectRejection(
        "ERR_KVASIR_UNSUPPORTED",
        ["is not installed; run `npm install kvasir-no-such-client`"],
        fixture.open(server.url, { client: "kvasir-no-such-client" }),
      );
    });
  });

  describe("a client that fails", () => {
    const folder = mkdtempSync(join(tmpdir(), "kvasir-client-"));
    afterAll(() => rmSync(folder, { recursive: true }));

    /** A client package whose `sendCommand` does `body` with the command's name. */
    function clientOf(name: string, body: string): string {
      const path = join(folder, `${name}.mjs`);
      writeFileSync(
        path,
        `import { existsSync } from "node:fs";
        export const RESP_TYPES = { BLOB_STRING: 36 };
        const hasTrouble = () => !existsSync(${JSON.stringify(join(folder, `${name}.over`))});
        export const createClient = () => ({
          on() {}, destroy() {}, async connect() {},
          async sendCommand([command]) {
            if (hasTrouble() && command !== "PING") { ${body} }
            return command === "EXISTS" ? 0 : command === "GET" ? null : "OK";
          },
        });`,
      );
      return pathToFileURL(path).href;
    }
    const over = (name: string): void => writeFileSync(join(folder, `${name}.over`), "");

    test.each([
      ["throws", `setImmediate(() => { throw new Error("out of its mind"); }); return new Promise(() => {});`, /out of its mind/],
      ["hangs", "for (;;);", /ended with/],
      ["exits", "process.exit(3);", /ended with 3/],
    ])("its thread %s: requests fail, and another thread is started", async (name, body, reason) => {
      fixture = new RemoteFixture([1000]);
      const tier = await fixture.open(server.url, { client: clientOf(name, body), timeoutMs: 50, failuresToOpen: 1 });
      const batch = await fixture.pages(0, [0]);
      expect(Array.from(await tier.load(batch))).toEqual([FAILED]);
      await until(() => reason.test(fixture.warnings[0] ?? ""), "it said why");
      over(name);
      await until(async () => (await tier.load(batch))[0] === MISSING, "it was used again");
    });

    test("a package that does not load", async () => {
      fixture = new RemoteFixture([1000]);
      const path = join(folder, "broken.mjs");
      writeFileSync(path, `throw new Error("cannot be");`);
      const opening = fixture.open(server.url, { client: pathToFileURL(path).href });
      await expectRejection("ERR_KVASIR_UNSUPPORTED", ["does not load: cannot be"], opening);
    });
  });
});
