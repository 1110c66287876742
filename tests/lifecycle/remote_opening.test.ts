/** Opening the remote tier where something is missing or wrong, and a client that fails once it is open. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { FAILED, MISSING, REFUSED } from "../../lib/cache/tier_driver.js";
import { expectRejection } from "../expect_error.js";
import { freePort, onRedis, RedisServer } from "../redis_server.js";
import { RemoteFixture, until, works } from "../remote_fixture.js";

onRedis("opening the remote tier", () => {
  let server: RedisServer;
  let fixture: RemoteFixture;
  beforeAll(async () => {
    server = await RedisServer.start();
  });
  afterAll(() => server.stop());
  afterEach(() => fixture.dispose());

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
