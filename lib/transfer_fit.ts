/** The choice of a copy path: what a page costs on each, as a line over its bytes. */
import type { Device } from "./device.js";

/**
 * How pages travel. `dma`: one copy by a copy engine for each run of pages; `batch`: thousands of such copies in one call of the driver;
 * `kernel`: multiprocessors read or write the host memory in place.
 */
export type CopyPath = "dma" | "batch" | "kernel";

/** `in`: from host memory to the device; `out`: from the device to host memory. */
export type TransferDirection = "in" | "out";

/** Microseconds of a page: `alphaUs + bytes / (betaGbPerS * 1000)`. */
export interface PathFit {
  alphaUs: number;
  betaGbPerS: number;
}

export type PathFits = Record<TransferDirection, Record<CopyPath, PathFit>>;

export const copyPaths: readonly CopyPath[] = ["dma", "batch", "kernel"];

/**
 * Taken before a machine was measured: an H100 on PCIe 5 as published curves show it. A copy costs the engine some 3.7 us beside its
 * bytes, half of that in a batch; a kernel starts pages for next to nothing, and moves large ones a little slower.
 */
export const defaultFits: PathFits = {
  in: {
    dma: { alphaUs: 3.7, betaGbPerS: 51.5 },
    batch: { alphaUs: 1.8, betaGbPerS: 51.5 },
    kernel: { alphaUs: 0.17, betaGbPerS: 47.5 },
  },
  out: {
    dma: { alphaUs: 3.7, betaGbPerS: 51.5 },
    batch: { alphaUs: 1.8, betaGbPerS: 51.5 },
    kernel: { alphaUs: 0.2, betaGbPerS: 48.5 },
  },
};

/** What the simpler path, or one that leaves the multiprocessors alone, may cost more than the fastest. */
const ENGINE_MARGIN = 1.03;
const DMA_MARGIN = 1.01;

/** Times of pages on this machine, and the path that follows from them. Made by `measureTransferPaths`. */
export class TransferPaths {
  readonly fits: PathFits;
  /** Whether the fits were measured here; otherwise they are the documented defaults. */
  readonly measured: boolean;
  /** Single times behind the fits: microseconds a page, by direction, path and bytes of a page. */
  readonly samples: readonly PathSample[];

  /** @internal */
  constructor(fits: PathFits, samples: readonly PathSample[] = []) {
    this.fits = fits;
    this.samples = samples;
    this.measured = samples.length > 0;
  }

  /** Predicted microseconds for `count` pieces of `bytes` each. */
  predictUs(path: CopyPath, direction: TransferDirection, bytes: number, count = 1): number {
    const between = this.#interpolate(path, direction, bytes);
    return count * (between ?? timeOf(this.fits[direction][path], bytes));
  }

  /**
   * The path for `count` pieces of `bytes` each: the fastest, but a copy engine where it is within 3 %, since a kernel takes
   * multiprocessors from what computes meanwhile.
   */
  choose(direction: TransferDirection, bytes: number, count = 1): CopyPath {
    const us = (path: CopyPath): number => this.predictUs(path, direction, bytes, count);
    const engine: CopyPath = count < 2 || us("dma") <= us("batch") * DMA_MARGIN ? "dma" : "batch";
    return us(engine) <= us("kernel") * ENGINE_MARGIN ? engine : "kernel";
  }

  /** Between two measured sizes the time is a line over bytes: nearer to the truth than one line for all sizes. */
  #interpolate(path: CopyPath, direction: TransferDirection, bytes: number): number | undefined {
    let below: PathSample | undefined;
    let above: PathSample | undefined;
    for (const sample of this.samples) {
      if (sample.path !== path || sample.direction !== direction) continue;
      if (sample.bytes <= bytes && sample.bytes > (below?.bytes ?? -1)) below = sample;
      if (sample.bytes >= bytes && sample.bytes < (above?.bytes ?? Number.POSITIVE_INFINITY)) above = sample;
    }
    if (below === undefined || above === undefined) return undefined;
    if (below.bytes === above.bytes) return below.us;
    return below.us + ((above.us - below.us) * (bytes - below.bytes)) / (above.bytes - below.bytes);
  }
}

/** A measured time. */
export interface PathSample {
  direction: TransferDirection;
  path: CopyPath;
  /** Of a page. */
  bytes: number;
  /** Microseconds a page, many in one transfer. */
  us: number;
}

export const timeOf = ({ alphaUs, betaGbPerS }: PathFit, bytes: number): number => alphaUs + bytes / (betaGbPerS * 1000);

/**
 * The line through times of pages, by least squares of the relative error, so that small pages count as much as large ones. Neither
 * constant is negative.
 */
export function fitPath(points: readonly { bytes: number; us: number }[]): PathFit {
  // Weighted by 1/us: rows (1/us, bytes/us) against 1.
  let [aa, ab, bb, a1, b1] = [0, 0, 0, 0, 0];
  for (const { bytes, us } of points) {
    const [x, y] = [1 / us, bytes / us];
    aa += x * x;
    ab += x * y;
    bb += y * y;
    a1 += x;
    b1 += y;
  }
  const determinant = aa * bb - ab * ab;
  let alpha = determinant > 1e-12 * aa * bb ? (a1 * bb - b1 * ab) / determinant : 0;
  let slope = determinant > 1e-12 * aa * bb ? (b1 * aa - a1 * ab) / determinant : b1 / bb;
  if (alpha < 0) [alpha, slope] = [0, b1 / bb];
  if (slope <= 0) [alpha, slope] = [a1 / aa, Number.MIN_VALUE];
  return { alphaUs: alpha, betaGbPerS: slope === Number.MIN_VALUE ? Number.POSITIVE_INFINITY : 1 / (slope * 1000) };
}

/** The fits of every path and direction that `samples` speak of; the rest as `defaultFits`. */
export function fitAll(samples: readonly PathSample[]): PathFits {
  const fits = structuredClone(defaultFits);
  for (const direction of ["in", "out"] as const) {
    for (const path of copyPaths) {
      const own = samples.filter((sample) => sample.direction === direction && sample.path === path);
      if (own.length > 0) fits[direction][path] = fitPath(own);
    }
  }
  return fits;
}

const unmeasured = new TransferPaths(defaultFits);
const measuredPaths = new WeakMap<Device, TransferPaths>();

/** What is known of a device: measured, or the defaults. */
export const pathsOf = (device: Device): TransferPaths => measuredPaths.get(device) ?? unmeasured;

/** @internal */
export function rememberPaths(device: Device, paths: TransferPaths): void {
  measuredPaths.set(device, paths);
}
