/** `kvasir bench` and `kvasir report`: loaded on demand, since only they need the bench folder. */
export async function bench(args: readonly string[]): Promise<number> {
  const { runBench } = await import("../../bench/main.js");
  return runBench(args);
}

export async function report(args: readonly string[]): Promise<number> {
  const { runReport } = await import("../../bench/report.js");
  return runReport(args);
}
