/** The test projects: `npm test` runs them all, `npx vitest run --project cuda` one. */
import { defineConfig } from "vitest/config";
import { CountReporter } from "./tests/count_reporter.js";

const seconds = (n: number) => n * 1000;

/** One folder of tests/. Hooks may open devices and load models, so they get the same time as the tests. */
const project = (name: string, timeout: number) => ({
  test: { name, include: [`tests/${name}/**/*.test.ts`], testTimeout: timeout, hookTimeout: timeout },
});

/** Projects that fill the machine (a GPU, or every core): their files run one after another, and after the small ones. */
const alone = (name: string, timeout: number, groupOrder: number) => {
  const { test } = project(name, timeout);
  return { test: { ...test, fileParallelism: false, sequence: { groupOrder } } };
};

export default defineConfig({
  test: {
    // Forks, for native addons and worker threads do not mix well; a fork also survives another one's crash.
    pool: "forks",
    reporters: ["default", new CountReporter()],
    projects: [
      project("unit", seconds(30)),
      project("property", seconds(120)),
      project("types", seconds(120)),
      alone("cpu", seconds(300), 1),
      alone("golden", seconds(600), 2),
      alone("cuda", seconds(600), 3),
      alone("lifecycle", seconds(300), 4),
      alone("package", seconds(900), 5),
    ],
  },
});
