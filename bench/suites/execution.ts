/** What calling costs: JavaScript-thread time of enqueueing an op and of replaying a program, a hop between streams of either backend,
 * and how far a 1 ms timer lags while the device works. */
import { type Device, type Event, type Stream, attention, openDevice } from "../../lib/index.js";
import { type Timing, summarise } from "../harness.js";
import type { Row } from "../results.js";

const noShape = { batch: 1, qoLen: 1, kvLen: 64, qoHeads: 4, kvHeads: 2, headDim: 64 };

const timeRow = (op: string, variant: string, timing: Timing, limitUs: number): Row => ({
  op,
  variant,
  shape: noShape,
  dtype: "f32",
  ...timing,
  ceiling: { name: "limit_us", value: limitUs },
  share_of_ceiling: timing.median_us / limitUs,
  peers: {},
  max_abs_err: 0,
  tolerance: 0,
  pass: true,
});

async function enqueueCost(device: Device, report: (row: Row) => void): Promise<void> {
  const dtype = device.backend === "cuda" ? "bf16" : "f32";
  const { qoHeads, kvHeads, headDim, kvLen } = noShape;
  using q = device.zeros(dtype, [1, qoHeads, headDim]);
  using k = device.zeros(dtype, [kvLen, kvHeads, headDim]);
  using v = device.zeros(dtype, [kvLen, kvHeads, headDim]);
  using out = device.empty(dtype, [1, qoHeads, headDim]);
  const call = (): void => attention(device.stream, { q, k, v, out, causal: true });
  using program = device.stream.program(() => {
    for (let i = 0; i < 100; i++) call();
  });
  for (const [variant, body] of [
    ["attention", call],
    ["program of 100", () => device.stream.launch(program)],
  ] as const) {
    const samples: number[] = [];
    for (let i = 0; i < 2000; i++) {
      const begin = performance.now();
      body();
      if (i >= 500) samples.push((performance.now() - begin) * 1e3);
      if (i % 50 === 0) await device.stream.finished();
    }
    report(timeRow("enqueue", variant, summarise(samples), 10));
  }
}

/** Microseconds per hop of a chain a -> b -> a -> ... of events, timed on the device of `a`. */
async function hopCost(a: Stream, b: Stream, there: Event, back: Event): Promise<Timing> {
  const hops = 50;
  const samples: number[] = [];
  for (let repeat = 0; repeat < 40; repeat++) {
    a.stamp(0);
    for (let i = 0; i < hops / 2; i++) {
      a.record(there);
      b.wait(there);
      b.record(back);
      a.wait(back);
    }
    a.stamp(1);
    await a.finished();
    if (repeat >= 10) samples.push(a.elapsedMicroseconds(0, 1) / hops);
  }
  return summarise(samples);
}

async function hops(device: Device, report: (row: Row) => void): Promise<void> {
  using cpu = openDevice("cpu");
  using there = device.createEvent();
  using back = cpu.createEvent();
  report(timeRow("event_hop", `${device.backend} <-> cpu`, await hopCost(device.stream, cpu.createStream(), there, back), 15));
}

/** One row for the 99th percentile, the figure that the limit is set on: `median_us` holds it. */
async function timerLag(device: Device, report: (row: Row) => void): Promise<void> {
  const length = device.backend === "cuda" ? 131072 : 8192;
  const dtype = device.backend === "cuda" ? "bf16" : "f32";
  using q = device.zeros(dtype, [length, 8, 128]);
  using out = device.empty(dtype, [length, 8, 128]);
  const lags: number[] = [];
  let running = true;
  let last = performance.now();
  const tick = (): void => {
    const now = performance.now();
    lags.push((now - last - 1) * 1e3);
    last = now;
    if (running) setTimeout(tick, 1);
  };
  setTimeout(tick, 1);
  const begin = performance.now();
  while (performance.now() - begin < 10_000) {
    attention(device.stream, { q, k: q, v: q, out, causal: true });
    await device.stream.finished();
  }
  running = false;
  const sorted = [...lags].sort((x, y) => x - y);
  const p99 = sorted[Math.floor(sorted.length * 0.99)] as number;
  report(
    timeRow("timer_lag", "p99 during a 10 s prefill", { samples: lags.length, median_us: p99, p5_us: p99, p95_us: p99 }, 5000),
  );
}

export async function execution(device: Device, _ceilings: Record<string, number>, report: (row: Row) => void): Promise<void> {
  await enqueueCost(device, report);
  await hops(device, report);
  await timerLag(device, report);
}
