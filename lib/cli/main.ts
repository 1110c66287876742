#!/usr/bin/env node
/** `kvasir <command>`: data on stdout, progress on stderr; exit code 0, 1 for a failure, 2 for wrong usage. */
import { KvasirError } from "../index.js";

interface Command {
  summary: string;
  /** Returns the exit code. Loaded on demand: `doctor` must run where nothing else does. */
  load(): Promise<(args: readonly string[]) => Promise<number>>;
}

const commands: Readonly<Record<string, Command>> = {
  doctor: {
    summary: "what this machine offers, layer by layer, and what to do about the rest",
    load: async () => (await import("./doctor.js")).doctor,
  },
  build: { summary: "compile the native part on this machine", load: async () => (await import("./build.js")).build },
  generate: { summary: "continue a text with a model", load: async () => (await import("./generate.js")).generateCommand },
  demo: { summary: "the bundled model answers questions from a long text", load: async () => (await import("./demo.js")).demo },
  eval: { summary: "accuracy per cache mode: loss, divergence, recall", load: async () => (await import("./eval.js")).evaluate },
  bench: { summary: "measure the kernels of this machine", load: async () => (await import("./bench.js")).bench },
  report: { summary: "draw bench results as one HTML page", load: async () => (await import("./bench.js")).report },
};

function usage(): string {
  const width = Math.max(...Object.keys(commands).map((name) => name.length));
  const lines = Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`);
  return `usage: kvasir <command> [options]\n\n${lines.join("\n")}\n\nkvasir <command> --help tells the options.\n`;
}

async function main(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    process.stdout.write(usage());
    return name === undefined ? 2 : 0;
  }
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (command === undefined) {
    process.stderr.write(`kvasir: no command ${name}\n${usage()}`);
    return 2;
  }
  try {
    const run = await command.load();
    return await run(rest);
  } catch (error) {
    return report(name, error);
  }
}

/** One sentence for a coded error or wrong options; anything else is a defect and keeps its stack. */
function report(command: string, error: unknown): number {
  const { code, message } = error as { code?: unknown; message?: unknown };
  if (error instanceof KvasirError) {
    process.stderr.write(`kvasir ${command}: ${error.message} (${error.code})\n`);
    return 1;
  }
  if (typeof code === "string" && code.startsWith("ERR_PARSE_ARGS")) {
    process.stderr.write(`kvasir ${command}: ${String(message)}\n`);
    return 2;
  }
  process.stderr.write(`kvasir ${command}: ${error instanceof Error ? error.stack : String(error)}\n`);
  return 1;
}

process.exitCode = await main(process.argv.slice(2));
