/** The memory that keyed tiers move pages to and from. */
import { KvasirError } from "../errors.js";
import { describe } from "../options.js";
import { checkPool } from "../slab_file.js";
import { Tensor } from "../tensor.js";
import type { TierIdentity } from "./tier_identity.js";

/** @throws ERR_KVASIR_INVALID_ARGUMENT unless there is a tensor with pages of the right size for each layer group. */
export function checkPools(pools: readonly Tensor[], identity: TierIdentity): void {
  const { groups } = identity;
  if (!Array.isArray(pools) || pools.length !== groups.length) {
    const found = Array.isArray(pools) ? `an array of ${pools.length}` : describe(pools);
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `pools is ${found}, expected a tensor for each of ${groups.length} groups`,
    );
  }
  for (const [index, { pageBytes }] of groups.entries()) {
    const pool = pools[index];
    if (!(pool instanceof Tensor))
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `pools[${index}] is ${describe(pool)}, expected a Tensor`);
    checkPool(`pools[${index}]`, pool, pageBytes);
  }
}
