/** A cache over real memory: a device pool, a host pool, a slab file, and the movers between them. */
import {
  allocateHostTensor,
  CacheTiers,
  type Device,
  DevicePageStore,
  type DiskTier,
  dtypeBytes,
  KvCache,
  type LayerGroup,
  openDevice,
  openDiskTier,
  type PageFormat,
  type Stream,
  type Tensor,
  TIER_VERSION,
} from "../../lib/index.js";
import { DeviceMover } from "../../lib/cache/device_mover.js";
import type { PageMover } from "../../lib/cache/page_mover.js";
import { LayerViews, PagePatterns } from "./page_patterns.js";

export interface RigOptions {
  device: Device;
  /** Bytes of a page, in so many layers of 64 tokens. */
  pageBytes: number;
  numLayers: number;
  devicePages: number;
  hostPages: number;
  /** The slab file, for so many pages; absent: none. */
  disk?: { path: string; pages: number } | undefined;
  /** Another mover than the right one, from it and from one that waits for nothing and holds nothing. */
  mover?: ((right: PageMover, blind: PageMover) => PageMover) | undefined;
}

export const pageSize = 64;
const headDim = 64;

export class DeviceRig {
  readonly cache: KvCache;
  readonly tiers: CacheTiers;
  readonly patterns: PagePatterns;
  readonly onDevice: LayerViews;
  readonly onHost: LayerViews;
  readonly stream: Stream;
  readonly #close: () => Promise<void>;

  private constructor(
    parts: Pick<DeviceRig, "cache" | "tiers" | "patterns" | "onDevice" | "onHost" | "stream">,
    close: () => Promise<void>,
  ) {
    this.cache = parts.cache;
    this.tiers = parts.tiers;
    this.patterns = parts.patterns;
    this.onDevice = parts.onDevice;
    this.onHost = parts.onHost;
    this.stream = parts.stream;
    this.#close = close;
  }

  static async open(options: RigOptions): Promise<DeviceRig> {
    const { device, devicePages, hostPages } = options;
    const { stream } = device;
    const groups = [layerGroup(options)];
    const store = new DevicePageStore(device, stream, groups, pageSize, devicePages);
    const cache = new KvCache({ groups, pageSize, maxPages: devicePages, hostPages, farPages: options.disk?.pages }, store);
    const format = cache.groups[0]?.format as PageFormat;
    const host = device.backend === "cpu" ? device : openDevice("cpu");
    const elements = format.pageBytes / dtypeBytes[format.dtype];
    const pinned = host === device ? {} : { pinnedFor: device };
    const pool = await allocateHostTensor(host, format.dtype, [hostPages, elements], pinned);
    const disk = await openDisk(options, groups[0] as LayerGroup, format, pool);
    const common = { device, formats: [format], devicePages: [store.pages(0)], hostPages: [pool] };
    const right = new DeviceMover({ ...common, stream });
    const idle = device.createStream();
    const blind = new DeviceMover({ ...common, stream: idle });
    const mover = options.mover?.(right, blind) ?? right;
    const tiers = new CacheTiers({ cache, mover, drivers: disk === undefined ? [] : [disk], admitAtSecondUse: false });
    const patterns = new PagePatterns(device, format);
    const [onDevice, onHost] = [new LayerViews(store.pages(0), format), new LayerViews(pool, format)];
    return new DeviceRig({ cache, tiers, patterns, onDevice, onHost, stream }, async () => {
      await tiers.close();
      for (const part of [right, blind, idle, onDevice, onHost, patterns, store, pool]) part.dispose();
      if (host !== device) host.dispose();
    });
  }

  close(): Promise<void> {
    return this.#close();
  }
}

/** 64 tokens of so many layers, in bytes as asked. */
function layerGroup({ pageBytes, numLayers }: RigOptions): LayerGroup {
  const numKvHeads = pageBytes / numLayers / (2 * pageSize * headDim * dtypeBytes.bf16);
  return { layers: Array.from({ length: numLayers }, (_, i) => i), numKvHeads, headDim, dtype: "bf16" };
}

async function openDisk(
  { disk }: RigOptions,
  group: LayerGroup,
  format: PageFormat,
  pool: Tensor,
): Promise<DiskTier | undefined> {
  if (disk === undefined) return undefined;
  const { pageBytes, storeRotated, name } = format;
  const { layers, numKvHeads } = group;
  const identity = {
    version: TIER_VERSION,
    model: "patterns",
    dtype: format.dtype,
    pageSize,
    groups: [{ layers, numKvHeads, headDim, format: name, pageBytes, storeRotated }],
  };
  return openDiskTier({
    path: disk.path,
    maxBytes: disk.pages * (pageBytes + 8192) + (1 << 20),
    identity,
    pools: [pool],
    onMismatch: "reset",
  });
}
