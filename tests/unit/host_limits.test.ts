/** What a process may still take of host memory, from files that stand for the system's. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { hostLimits } from "../../lib/host_limits.js";
import { allocateHostTensor, isPinned, openDevice } from "../../lib/index.js";
import { expectRejection } from "../expect_error.js";

const folder = mkdtempSync(join(tmpdir(), "kvasir-limits-"));
afterAll(() => rmSync(folder, { recursive: true }));
let roots = 0;

/** A root with these files. */
function root(files: Record<string, string>): string {
  const path = join(folder, String(roots++));
  mkdirSync(path);
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(path, name)), { recursive: true });
    writeFileSync(join(path, name), content);
  }
  return path;
}

const GIB = 2 ** 30;
const meminfo = (gib: number): string => `MemTotal:       99999999 kB\nMemFree: 5 kB\nMemAvailable:   ${gib * 2 ** 20} kB\n`;
const lines = (soft: string): string =>
  `Limit  Soft Limit  Hard Limit  Units\nMax locked memory         ${soft}              8388608              bytes     \n`;

describe("hostLimits", () => {
  test("without limits MemAvailable holds; with nothing at all, nothing does", () => {
    expect(hostLimits(root({ "proc/meminfo": meminfo(7) }))).toEqual({
      availableBytes: 7 * GIB,
      limitedBy: "MemAvailable",
      memlockBytes: Number.POSITIVE_INFINITY,
    });
    expect(hostLimits(root({})).availableBytes).toBe(Number.POSITIVE_INFINITY);
  });

  test("cgroup v2: the tightest of the process's own and those around it; file pages count as free", () => {
    const limits = hostLimits(
      root({
        "proc/meminfo": meminfo(100),
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": `${GIB}\n`,
        "sys/fs/cgroup/a/memory.max": `${8 * GIB}\n`,
        "sys/fs/cgroup/a/memory.current": `${6 * GIB}\n`,
        "sys/fs/cgroup/a/memory.stat": `anon 5\ninactive_file ${GIB}\nactive_file 3\n`,
        "sys/fs/cgroup/memory.max": `${50 * GIB}\n`,
        "sys/fs/cgroup/memory.current": `${6 * GIB}\n`,
      }),
    );
    expect([limits.availableBytes, limits.limitedBy]).toEqual([3 * GIB, "/sys/fs/cgroup/a/memory.max"]);
  });

  test("cgroup v1, beside other controllers, at the mount's root where the path is not there", () => {
    const limits = hostLimits(
      root({
        "proc/meminfo": meminfo(100),
        "proc/self/cgroup": "12:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": `${4 * GIB}`,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": `${5 * GIB}`,
        "proc/self/limits": lines("65536"),
      }),
    );
    expect(limits).toEqual({
      availableBytes: 0,
      limitedBy: "/sys/fs/cgroup/memory/memory.limit_in_bytes",
      memlockBytes: 65536,
    });
  });

  test("this machine's own files give a number", () => {
    expect(hostLimits().availableBytes).toBeGreaterThan(0);
    expect(hostLimits().memlockBytes).toBeGreaterThanOrEqual(0);
  });
});

describe("allocateHostTensor", () => {
  test("refuses what does not fit, saying what would", async () => {
    using cpu = openDevice("cpu", { threads: 1 });
    const limitsRoot = root({ "proc/meminfo": meminfo(2) });
    const parts = ["3.00 GiB", "MemAvailable leaves 2.00 GiB"];
    await expectRejection("ERR_KVASIR_OUT_OF_MEMORY", parts, allocateHostTensor(cpu, "u8", [3, GIB], { limitsRoot }));
    const before = cpu.memory().allocatedBytes;
    using fits = await allocateHostTensor(cpu, "u8", [3, 2 ** 20], { limitsRoot });
    expect(cpu.memory().allocatedBytes).toBe(before + 3 * 2 ** 20);
    expect(isPinned(fits)).toBe(false);
  });

  test("counts against memoryLimit, and gives back", async () => {
    using cpu = openDevice("cpu", { threads: 1, memoryLimit: 64 * 2 ** 20 });
    const first = await allocateHostTensor(cpu, "u8", [40, 2 ** 20]);
    await expectRejection("ERR_KVASIR_OUT_OF_MEMORY", [/\d/], allocateHostTensor(cpu, "u8", [40, 2 ** 20]));
    first.dispose();
    const again = async (): Promise<boolean> => {
      try {
        using second = await allocateHostTensor(cpu, "u8", [40, 2 ** 20]);
        return second.size > 0;
      } catch {
        return false;
      }
    };
    let fits = false;
    for (let i = 0; i < 300 && !fits; i++) {
      fits = await again(); // it is unmapped off this thread
      if (!fits) await new Promise((resolve) => setTimeout(resolve, 10));
    }
    expect(fits).toBe(true);
  });

  test("bad arguments by name", async () => {
    using cpu = openDevice("cpu", { threads: 1 });
    const INVALID = "ERR_KVASIR_INVALID_ARGUMENT";
    const attempt = (options: object, shape: unknown = [1], dtype = "u8") =>
      allocateHostTensor(cpu, dtype as never, shape as never, options as never);
    await expectRejection(INVALID, ["cpu is null"], allocateHostTensor(null as never, "u8", [1]));
    await expectRejection(INVALID, ["pinnedFor is 1"], attempt({ pinnedFor: 1 }));
    await expectRejection(INVALID, ['allowUnpinned is "yes"'], attempt({ allowUnpinned: "yes" }));
    await expectRejection(INVALID, ["threads is 0"], attempt({ threads: 0 }));
    await expectRejection(INVALID, ["signal is an object"], attempt({ signal: {} }));
    await expectRejection(INVALID, ["onProgress is 3"], attempt({ onProgress: 3 }));
    await expectRejection("ERR_KVASIR_UNKNOWN_OPTION", ["pinned", "pinnedFor"], attempt({ pinedFor: cpu }));
    await expectRejection("ERR_KVASIR_SHAPE", ["shape\\[0\\] is -1".replaceAll("\\", "")], attempt({}, [-1]));
    await expectRejection("ERR_KVASIR_DTYPE", ['dtype is "u9"'], attempt({}, [1], "u9"));
    using empty = await allocateHostTensor(cpu, "f32", [0, 8]);
    expect(empty.size).toBe(0);
  });
});
