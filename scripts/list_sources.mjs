/** Prints the paths of a sources.txt, one a line, without its comments: `list_sources.mjs native/sources.txt`. */
import { readFileSync } from "node:fs";

const lines = readFileSync(process.argv[2], "utf8").split("\n");
console.log(
  lines
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"))
    .join("\n"),
);
