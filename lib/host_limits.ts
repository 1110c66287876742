/** How much host memory this process may still take, and who says so. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

export interface HostLimits {
  /** Bytes that may still be taken, by the tightest of the limits below. */
  availableBytes: number;
  /** Which limit that is: "MemAvailable" or the path of a cgroup's file. */
  limitedBy: string;
  /** RLIMIT_MEMLOCK in bytes, Infinity without one. Told where locking fails: CUDA's driver does not count against it everywhere. */
  memlockBytes: number;
}

/** A cgroup hierarchy: where it is mounted, and the files of its limit and its use. */
interface Hierarchy {
  mount: string;
  limit: string;
  used: string;
  /** In memory.stat: file pages that the kernel drops first. They count as used but make room. */
  reclaimable: string;
}

const V2: Hierarchy = { mount: "sys/fs/cgroup", limit: "memory.max", used: "memory.current", reclaimable: "inactive_file" };
const V1: Hierarchy = {
  mount: "sys/fs/cgroup/memory",
  limit: "memory.limit_in_bytes",
  used: "memory.usage_in_bytes",
  reclaimable: "total_inactive_file",
};

/**
 * The limits of this process: MemAvailable, and memory.max of its cgroup and of those around it, of both versions. Where a file is
 * missing, it limits nothing.
 *
 * @param root where `proc` and `sys` are looked for; tests put files of their own there.
 */
export function hostLimits(root = "/"): HostLimits {
  const limits: HostLimits = { availableBytes: Number.POSITIVE_INFINITY, limitedBy: "nothing", memlockBytes: memlock(root) };
  const tighten = (bytes: number, by: string): void => {
    if (bytes < limits.availableBytes) Object.assign(limits, { availableBytes: Math.max(0, bytes), limitedBy: by });
  };
  const available = /^MemAvailable:\s+(\d+) kB$/m.exec(text(root, "proc/meminfo"));
  if (available !== null) tighten(Number(available[1]) * 1024, "MemAvailable");
  for (const line of text(root, "proc/self/cgroup").split("\n")) {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    if (controllers === "") eachCgroup(root, V2, path, tighten);
    else if (controllers.split(",").includes("memory")) eachCgroup(root, V1, path, tighten);
  }
  return limits;
}

/** The process's cgroup and all around it. Inside a container its path may not be there: then the mount's own files hold. */
function eachCgroup(root: string, files: Hierarchy, path: string, tighten: (bytes: number, by: string) => void): void {
  const parts = path.split("/").filter((part) => part !== "");
  for (let depth = parts.length; depth >= 0; depth--) {
    const folder = join(files.mount, ...parts.slice(0, depth));
    const limit = number(text(root, join(folder, files.limit)));
    const used = number(text(root, join(folder, files.used)));
    if (limit === undefined || used === undefined) continue; // "max", or no such file
    const stat = new RegExp(`^${files.reclaimable} (\\d+)$`, "m").exec(text(root, join(folder, "memory.stat")));
    const reclaimable = Math.min(used, Number(stat?.[1] ?? 0));
    tighten(limit - used + reclaimable, join("/", folder, files.limit));
  }
}

function memlock(root: string): number {
  const soft = /^Max locked memory\s+(\d+|unlimited)\s/m.exec(text(root, "proc/self/limits"))?.[1];
  return soft === undefined || soft === "unlimited" ? Number.POSITIVE_INFINITY : Number(soft);
}

function text(root: string, path: string): string {
  try {
    return readFileSync(join(root, path), "utf8");
  } catch {
    return "";
  }
}

const number = (content: string): number | undefined => (/^\d+$/.test(content.trim()) ? Number(content) : undefined);
