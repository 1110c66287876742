/** Stand-in until the real one is merged. */
import { KvasirError } from "../errors.js";
import type { TierDriver } from "./tier_driver.js";

export interface RemoteTierOptions {
  url: string;
  identity: unknown;
  pools: unknown;
  pageSize: number;
}

export async function openRemoteTier(options: RemoteTierOptions): Promise<TierDriver> {
  throw new KvasirError("ERR_KVASIR_UNSUPPORTED", `remote ${options.url}`);
}
