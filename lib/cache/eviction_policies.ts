/** The eviction policies by name. */
import { KvasirError } from "../errors.js";
import { describe } from "../options.js";
import type { PolicyFactory } from "./eviction.js";
import { lfu } from "./eviction_lfu.js";
import { lru } from "./eviction_lru.js";
import { priority } from "./eviction_priority.js";
import { s3Fifo } from "./eviction_s3_fifo.js";

export const policyNames = ["lru", "lfu", "s3-fifo", "priority"] as const;
export type PolicyName = (typeof policyNames)[number];

/** The policy of that name. @throws ERR_KVASIR_INVALID_ARGUMENT, with the names that there are */
export function evictionPolicy(name: PolicyName): PolicyFactory {
  switch (name) {
    case "lru":
      return lru;
    case "lfu":
      return lfu;
    case "s3-fifo":
      return s3Fifo;
    case "priority":
      return priority();
    default:
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `policy is ${describe(name)}, expected ${policyNames.join(", ")}`);
  }
}
