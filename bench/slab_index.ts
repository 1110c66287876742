/** Fills the index of a slab file without writing a page: what a tier finds when it opens a file of very many. */
import { closeSync, ftruncateSync, openSync, readSync, writeSync } from "node:fs";

/** As in native/addon/slab_layout.h. */
const HEADER = 65_536;
const EXTENT_SLOTS = 1024;
const ENTRY = 64;

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0x82f63b78 : 0);
  return value;
});

function crc32c(bytes: Uint8Array, from: number, to: number): number {
  let crc = 0xffffffff;
  for (let i = from; i < to; i++) crc = (crc >>> 8) ^ (crcTable[(crc ^ (bytes[i] as number)) & 255] as number);
  return ~crc >>> 0;
}

/** The key of the page in a slot; any 128 bits would do. */
export const indexKey = (slot: number): Uint32Array => Uint32Array.of(slot, Math.imul(slot, 0x9e3779b1) >>> 0, 7, 9);

/** Entries for slots 0 to `pages` - 1 of an existing, closed file; the slots themselves are holes, so that loads find damage. */
export function fillIndex(path: string, pages: number, slotBytes: number, payloadBytes: number): void {
  const file = openSync(path, "r+");
  try {
    const salt = new Uint8Array(4);
    readSync(file, salt, 0, 4, 12);
    const extent = new Uint8Array(EXTENT_SLOTS * ENTRY);
    const view = new DataView(extent.buffer);
    const extentBytes = extent.length + EXTENT_SLOTS * slotBytes;
    for (let first = 0; first < pages; first += EXTENT_SLOTS) {
      extent.fill(0);
      const end = Math.min(pages, first + EXTENT_SLOTS);
      for (let slot = first; slot < end; slot++) {
        const at = (slot - first) * ENTRY;
        for (const [word, value] of indexKey(slot).entries()) view.setUint32(at + 4 * word, value, true);
        view.setBigUint64(at + 32, BigInt(slot + 1), true);
        view.setUint32(at + 40, slot, true);
        view.setBigUint64(at + 48, BigInt(payloadBytes), true);
        extent.set(salt, at + 56);
        view.setUint32(at + 60, crc32c(extent, at, at + 60), true);
      }
      writeSync(file, extent, 0, extent.length, HEADER + (first / EXTENT_SLOTS) * extentBytes);
      if (end === pages)
        ftruncateSync(file, HEADER + (first / EXTENT_SLOTS) * extentBytes + extent.length + (end - first) * slotBytes);
    }
  } finally {
    closeSync(file);
  }
}
