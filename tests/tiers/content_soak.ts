/** `npm run soak -- --gigabytes N`: contents of real pages through all tiers until so much has moved. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { randomInt } from "node:crypto";
import { type DeviceKind, openDevice } from "../../lib/index.js";
import { ContentMover, type ContentRun } from "./content_run.js";
import { DeviceRig } from "./device_rig.js";
import { race, races } from "./races.js";

export interface ContentSoakOptions {
  /** "cpu" or "cuda"; default the best usable one. */
  device?: DeviceKind | undefined;
  gigabytes: number;
  seed?: number | undefined;
  /** Folder for the slab file, default the system's for temporary files; "none": no disk. */
  disk?: string | undefined;
}

/** Pages of 2 MB in 8 layers; pools that are too small for all that lives in them. */
const shape = { pageBytes: 2 << 20, numLayers: 8, devicePages: 256, hostPages: 896 };
const diskPages = 2048;
const raceRounds = 200;
const raceShape = { pageBytes: 4 << 20, numLayers: 8, devicePages: 12, hostPages: 24 };

/** Returns whether everything was as it must be, after one line of JSON. */
export async function soakContents(options: ContentSoakOptions): Promise<boolean> {
  const { gigabytes, seed = randomInt(2 ** 31) } = options;
  const device = openDevice(options.device);
  const folder = options.disk === "none" ? undefined : await mkdtemp(join(options.disk ?? tmpdir(), "kvasir-soak-"));
  const disk = folder === undefined ? undefined : { path: join(folder, "slab"), pages: diskPages };
  const rig = await DeviceRig.open({ device, ...shape, disk });
  let told = 0;
  const tell = ({ movedBytes, checkedPages, wrongLayers, seconds }: ContentRun): void => {
    if (seconds - told < 1) return;
    told = seconds;
    process.stderr.write(
      `\r${(movedBytes / 1e9).toFixed(1)} of ${gigabytes} GB moved, ${checkedPages} pages checked, ${wrongLayers} layers wrong   `,
    );
  };
  const run = await new ContentMover(rig, seed).move(gigabytes * 1e9, tell);
  await rig.close();
  if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  process.stderr.write("\n");
  const lost: Record<string, { withEdge: number; withoutEdge: number }> = {};
  for (const name of races) {
    const withEdge = await race(name, true, { device, ...raceShape }, raceRounds);
    lost[name] = { withEdge, withoutEdge: await race(name, false, { device, ...raceShape }, raceRounds) };
  }
  const { backend, name } = device.describe();
  console.log(JSON.stringify({ backend, device: name, seed, ...run, raceRounds, racesLost: lost }));
  device.dispose();
  const isRaceFair = Object.values(lost).every(({ withEdge, withoutEdge }) => withEdge === 0 && withoutEdge > 0);
  return run.wrongLayers === 0 && run.failedCopies === 0 && isRaceFair;
}
