/** What is in the server under a page's key is taken for that page only if every part of it says so. */
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { DAMAGED, LOADED, MISSING } from "../../lib/cache/tier_driver.js";
import { onRedis, RedisServer } from "../redis_server.js";
import { at, pick, RemoteFixture } from "../remote_fixture.js";

onRedis("integrity of the remote tier", () => {
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

  test("finds a flipped bit in every field of the header and in the payload, and deletes the page", async () => {
    fixture = new RemoteFixture([4000]);
    const tier = await fixture.open(server.url);
    const batch = await fixture.pages(0, [0]);
    await tier.store(batch);
    const name = fixture.nameOf(batch, 0);
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
      [fixture.nameOf(batch, 1), fixture.nameOf(batch, 0)],
      [fixture.nameOf(batch, 0, stranger), fixture.nameOf(batch, 0)],
      [fixture.nameOf(batch, 0), fixture.nameOf({ ...batch, group: 1 }, 0)],
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
    await server.command("LPUSH", fixture.nameOf(batch, 0), "x");
    expect(Array.from(await tier.load(batch))).toEqual([DAMAGED, MISSING]);
    expect(await server.command("EXISTS", fixture.nameOf(batch, 0))).toBe(0);
    expect(tier.isConnected).toBe(true);
  });
});
