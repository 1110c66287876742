/** Contents of pages through real memory, on one device; tests of each backend run them. */
import { randomInt } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { PageMover } from "../../lib/cache/page_mover.js";
import type { Device } from "../../lib/index.js";
import { ContentMover } from "./content_run.js";
import { DeviceRig } from "./device_rig.js";
import { race, races } from "./races.js";

export function contentCases(device: Device, bytes: number): void {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "kvasir-content-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  describe("contents of pages", () => {
    test.each([
      ["through a host pool", { hostPages: 400, disk: 0 }],
      ["through a small host pool and a disk", { hostPages: 24, disk: 600 }],
      ["with a disk that forgets", { hostPages: 16, disk: 60 }],
    ])("are what was written, %s", async (_name, { hostPages, disk }) => {
      const seed = randomInt(2 ** 31);
      const path = join(folder, `slab-${hostPages}`);
      const shape = { pageBytes: 64 << 10, numLayers: 4, devicePages: 40 };
      const rig = await DeviceRig.open({ device, ...shape, hostPages, disk: disk === 0 ? undefined : { path, pages: disk } });
      const run = await new ContentMover(rig, seed).move(bytes);
      await rig.close();
      expect(run.wrongLayers, `seed ${seed}`).toBe(0);
      expect(run.failedCopies).toBe(0);
      expect(run.checkedPages).toBeGreaterThan(100);
      expect(run.hostPages).toBeGreaterThan(0);
      if (disk > 0) expect(run.diskBytes).toBeGreaterThan(0);
      expect(run.lostTokens > 0).toBe(disk === 60);
    });

    test("are seen to be wrong when pages are mixed up", async () => {
      const shape = { pageBytes: 64 << 10, numLayers: 4, devicePages: 40, hostPages: 400 };
      const mixing = (right: PageMover): PageMover => ({
        toHost: (group, from, to) => right.toHost(group, from.toReversed(), to),
        toDevice: right.toDevice.bind(right),
        quiet: () => right.quiet(),
      });
      const rig = await DeviceRig.open({ device, ...shape, mover: mixing });
      const { wrongLayers } = await new ContentMover(rig, randomInt(2 ** 31)).move(16 << 20);
      await rig.close();
      expect(wrongLayers).toBeGreaterThan(0);
    });
  });

  describe.each(races)("the order that the race of a %s needs", (name) => {
    const shape = { device, pageBytes: 4 << 20, numLayers: 8, devicePages: 12, hostPages: 24 };
    test("is kept", async () => {
      expect(await race(name, true, shape, 40)).toBe(0);
    });
    test("is lost without its event: the race can be lost here", async () => {
      expect(await race(name, false, shape, 40)).toBeGreaterThan(0);
    });
  });
}
