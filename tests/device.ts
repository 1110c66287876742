/** Runs a suite on every backend. Where CUDA is not usable its tests are skipped with the reason; KVASIR_REQUIRE=cuda makes that a failure. */
import { afterAll, describe, test } from "vitest";
import { type Backend, type Device, openDevice, probeBackends } from "../lib/index.js";

/** Why a backend cannot be used here; undefined where it can. */
export function unusable(backend: Backend): string | undefined {
  const { devices, reasons } = probeBackends()[backend];
  return devices > 0 ? undefined : reasons.join("; ");
}

/** `suite` gets an open device, which is disposed after its tests. */
export function onBackend(backend: Backend, suite: (device: Device) => void): void {
  const reason = unusable(backend);
  if (reason === undefined) {
    describe(`on ${backend}`, () => {
      const device = openDevice(backend);
      afterAll(() => device.dispose());
      suite(device);
    });
  } else if (backend === "cpu" || isRequired(backend)) {
    test(`on ${backend}`, () => {
      throw new Error(`${backend} is required but not usable: ${reason}`);
    });
  } else {
    test.skip(`on ${backend}: not usable: ${reason}`, () => undefined);
  }
}

export function eachBackend(suite: (device: Device) => void): void {
  onBackend("cpu", suite);
  onBackend("cuda", suite);
}

/** Whether KVASIR_REQUIRE, a list such as "cuda,redis", names what a test needs. */
export function isRequired(what: string): boolean {
  return (process.env.KVASIR_REQUIRE ?? "").split(",").some((name) => name.trim() === what);
}
