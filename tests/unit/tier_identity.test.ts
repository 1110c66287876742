/** Identities of tiers: whatever differs changes the fingerprint, and is named. */
import { expect, test } from "vitest";
import {
  type TierIdentity,
  checkIdentity,
  differences,
  fingerprint,
  identityText,
  parseIdentity,
} from "../../lib/cache/tier_identity.js";
import { TIER_VERSION } from "../../lib/index.js";
import { expectError } from "../expect_error.js";

const identity = (): TierIdentity => ({
  version: TIER_VERSION,
  model: "weights-1",
  dtype: "bf16",
  pageSize: 64,
  groups: [
    { layers: [0, 2], numKvHeads: 2, headDim: 64, format: "identity", pageBytes: 65536, storeRotated: true },
    { layers: [1], numKvHeads: 2, headDim: 64, window: 128, format: "identity", pageBytes: 32768, storeRotated: true },
  ],
});

/** Each with one part changed, and the name of the part. */
const changes: [name: string, change: (identity: TierIdentity) => TierIdentity][] = [
  ["model", (i) => ({ ...i, model: "weights-2" })],
  ["dtype", (i) => ({ ...i, dtype: "f16" })],
  ["pageSize", (i) => ({ ...i, pageSize: 32 })],
  ["groups.length", (i) => ({ ...i, groups: i.groups.slice(0, 1) })],
  ["groups[0].layers", (i) => withGroup(i, { layers: [0, 3] })],
  ["groups[0].numKvHeads", (i) => withGroup(i, { numKvHeads: 4 })],
  ["groups[0].headDim", (i) => withGroup(i, { headDim: 128 })],
  ["groups[0].window", (i) => withGroup(i, { window: 64 })],
  ["groups[0].format", (i) => withGroup(i, { format: "i4" })],
  ["groups[0].pageBytes", (i) => withGroup(i, { pageBytes: 65537 })],
  ["groups[0].storeRotated", (i) => withGroup(i, { storeRotated: false })],
];

function withGroup(identity: TierIdentity, change: object): TierIdentity {
  return { ...identity, groups: identity.groups.map((group, index) => (index === 0 ? { ...group, ...change } : group)) };
}

test.each(changes)("another %s is another identity, and is named with both values", (name, change) => {
  const [one, other] = [identity(), change(identity())];
  expect(fingerprint(other)).not.toEqual(fingerprint(one));
  const found = differences(other, one);
  expect(found[0]).toMatch(new RegExp(`^${name.replace(/[[\].]/g, "\\$&")} is .+, expected .+$`));
  if (name !== "groups.length") expect(found).toHaveLength(1);
});

test("the same identity has the same fingerprint, in whatever order its parts were written", () => {
  const { groups, pageSize, dtype, model, version } = identity();
  const reordered: TierIdentity = { groups, pageSize, dtype, model, version };
  expect(fingerprint(reordered)).toEqual(fingerprint(identity()));
  expect(differences(reordered, identity())).toEqual([]);
  expect(fingerprint(identity())).toHaveLength(16);
});

test("parts that run into one another are told apart", () => {
  const lists = [[1, 12], [11, 2], [1, 1, 2], [112]].map((layers) => fingerprint(withGroup(identity(), { layers })));
  expect(new Set(lists.map(String)).size).toBe(lists.length);
  const mixed = fingerprint(withGroup(identity(), { window: undefined }));
  expect(mixed).not.toEqual(fingerprint(withGroup(identity(), { window: "undefined" })));
});

test("an identity comes back from its text, and other text is told", () => {
  expect(parseIdentity(identityText(identity()))).toEqual(identity());
  for (const text of ["", "{", "{}", "null", '{"groups":3}', '{"groups":[{}]}']) expect(parseIdentity(text)).toBeUndefined();
});

test("identities that no tier can serve are refused", () => {
  const refused: [RegExp, TierIdentity][] = [
    [/identity\.version is 0, expected 1/, { ...identity(), version: 0 }],
    [/identity\.model is ""/, { ...identity(), model: "" }],
    [/identity\.pageSize is 257/, { ...identity(), pageSize: 257 }],
    [/identity\.groups is/, { ...identity(), groups: [] }],
    [/identity\.groups\[0\]\.pageBytes is 0/, withGroup(identity(), { pageBytes: 0 })],
  ];
  for (const [part, bad] of refused) expectError("ERR_KVASIR_INVALID_ARGUMENT", [part], () => checkIdentity(bad));
  checkIdentity(identity());
});
