/** Options of the remote tier, and what becomes of them. */
import { KvasirError } from "../errors.js";
import { checkInteger, checkOptions, describe } from "../options.js";
import type { Tensor } from "../tensor.js";
import type { WorkerSettings } from "./remote_protocol.js";
import { checkIdentity, type TierIdentity } from "./tier_identity.js";
import { checkPools } from "./tier_pools.js";

export interface RemoteTierOptions {
  /** `redis://[user:password@]host[:port][/database]`, `rediss://` with TLS; `valkey://` and `valkeys://` mean the same. */
  url: string;
  /** What the pages mean; pages of another identity are never met. */
  identity: TierIdentity;
  /** Per layer group the host memory that pages are moved to and from: a tensor [slots, elements of a page] of a CPU device. */
  pools: readonly Tensor[];
  /** Connections that carry pages, 1 to 64 (default 4). */
  connections?: number | undefined;
  /**
   * Bytes of pages under way at most, over all connections; what is beyond waits. A staging buffer of this size is kept. Default 16 MiB, or
   * two pages a connection where that is more.
   */
  windowBytes?: number | undefined;
  /** Seconds after its last use at which the server may drop a page; by default the server's own policy decides. */
  ttlSeconds?: number | undefined;
  /** Milliseconds after which a request that was sent has failed (default 5000). */
  timeoutMs?: number | undefined;
  /** Failures in a row after which the server counts as away, and nothing waits for it any more (default 3). */
  failuresToOpen?: number | undefined;
  /** Milliseconds before the first attempt to reach it again (default 200), doubled for each further one up to `maxBackoffMs`. */
  backoffMs?: number | undefined;
  /** Default 10000. */
  maxBackoffMs?: number | undefined;
  /** Told in one sentence, once each time that the server goes away; by default a warning of the process. */
  onWarning?: ((message: string) => void) | undefined;
  /** npm package of the client, with the interface of node-redis (default "redis"). */
  client?: string | undefined;
}

const KNOWN: readonly (keyof RemoteTierOptions)[] = [
  "url",
  "identity",
  "pools",
  "connections",
  "windowBytes",
  "ttlSeconds",
  "timeoutMs",
  "failuresToOpen",
  "backoffMs",
  "maxBackoffMs",
  "onWarning",
  "client",
];

const MIB = 2 ** 20;
const DAY_MS = 86_400_000;

export interface RemoteSettings {
  /** Without user and password. */
  shownUrl: string;
  identity: TierIdentity;
  pools: readonly Tensor[];
  /** Undefined: it depends on the pages. */
  windowBytes: number | undefined;
  breaker: { failures: number; backoffMs: number; maxBackoffMs: number };
  onWarning: (message: string) => void;
  worker: Omit<WorkerSettings, "staging">;
}

/** @throws ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION */
export function checkRemoteOptions(options: RemoteTierOptions): RemoteSettings {
  checkOptions("openRemoteTier", options, KNOWN);
  const { identity, pools, onWarning = warn, client = "redis" } = options;
  const url = checkUrl(options.url);
  checkIdentity(identity);
  checkPools(pools, identity);
  if (typeof onWarning !== "function") throw invalid("onWarning", onWarning, "a function that takes a sentence");
  if (typeof client !== "string" || client === "") throw invalid("client", client, "the name of a package");
  return {
    shownUrl: `${url.protocol}//${url.host}${url.pathname}`,
    identity,
    pools,
    windowBytes: options.windowBytes === undefined ? undefined : checkInteger("windowBytes", options.windowBytes, 1, 2048 * MIB),
    breaker: {
      failures: checkInteger("failuresToOpen", options.failuresToOpen ?? 3, 1),
      backoffMs: checkInteger("backoffMs", options.backoffMs ?? 200, 1, DAY_MS),
      maxBackoffMs: checkInteger("maxBackoffMs", options.maxBackoffMs ?? 10_000, 1, DAY_MS),
    },
    onWarning,
    worker: {
      url: url.href,
      client,
      connections: checkInteger("connections", options.connections ?? 4, 1, 64),
      timeoutMs: checkInteger("timeoutMs", options.timeoutMs ?? 5000, 1, DAY_MS),
      ttlSeconds: options.ttlSeconds === undefined ? 0 : checkInteger("ttlSeconds", options.ttlSeconds, 1, 2 ** 31),
    },
  };
}

function warn(message: string): void {
  process.emitWarning(message, { code: "KVASIR_REMOTE_TIER" });
}

const invalid = (name: string, value: unknown, expected: string): KvasirError =>
  new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `${name} is ${describe(value)}, expected ${expected}`);

function checkUrl(value: unknown): URL {
  // A URL of an unknown scheme has its host and port checked less strictly, so the scheme is put right first.
  const text = typeof value === "string" ? value.replace(/^valkey(s?):/, "redis$1:") : "";
  const expected = "redis://[user:password@]host[:port][/database], or rediss:// for TLS";
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw invalid("url", typeof value === "string" ? "text" : value, expected);
  }
  if (!/^rediss?:$/.test(url.protocol) || url.hostname === "") {
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `url begins with ${describe(url.protocol)}, expected ${expected}`);
  }
  if (!/^\/?\d{0,4}$/.test(url.pathname))
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `url has the path ${describe(url.pathname)}, expected the number of a database`,
    );
  return url;
}
