/** The remote tier when the server dies, hangs, comes late or never was: no hang, no crash, no wrong page, and it comes back by itself. */
import { setImmediate as nextTurn } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { FAILED, LOADED, MISSING, PRESENT, REFUSED, STORED } from "../../lib/cache/tier_driver.js";
import { expectRejection } from "../expect_error.js";
import { onRedis, RedisServer, ReplyGate } from "../redis_server.js";
import { all, at, pick, RemoteFixture, range, until, works } from "../remote_fixture.js";

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
});
