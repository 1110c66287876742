/** Traces that once failed, shortened: each found a mistake of the kind that it names, and must pass for good. */
import { readFileSync } from "node:fs";
import type { Trace } from "./trace.js";

export const formerFailures: readonly { why: string; trace: Trace }[] = JSON.parse(
  readFileSync(new URL("former_failures.json", import.meta.url), "utf8"),
);
