import { describe, expect, test } from "vitest";
import { KvasirError } from "../../lib/errors.js";
import { readRope, ropeFrequencies } from "../../lib/model/rope.js";

const unsupported = (what: string): KvasirError => new KvasirError("ERR_KVASIR_UNSUPPORTED_MODEL", what);

function frequencies(
  json: Record<string, unknown>,
  headDim: number,
  maxPositions: number,
  length = maxPositions,
): { invFreq: number[]; scale: number } {
  const { invFreq, scale } = ropeFrequencies(readRope(json, headDim, maxPositions, unsupported), length);
  return { invFreq: [...invFreq], scale };
}

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(actual.length).toBe(expected.length);
  expected.forEach((value, i) => {
    expect(Math.abs((actual[i] as number) / value - 1), `inv_freq[${i}] is ${actual[i]}, expected ${value}`).toBeLessThan(3e-7);
  });
}

describe("RoPE frequencies, against values worked out from the formulas", () => {
  test("default", () => {
    const { invFreq, scale } = frequencies({ rope_theta: 1e4 }, 8, 2048);
    expectClose(invFreq, [1, 0.1, 0.01, 0.001]);
    expect(scale).toBe(1);
  });

  test("newer configs keep theta in rope_parameters", () => {
    expectClose(
      frequencies({ rope_parameters: { rope_type: "default", rope_theta: 1e4 } }, 8, 2048).invFreq,
      [1, 0.1, 0.01, 0.001],
    );
  });

  test("partial_rotary_factor rotates fewer dimensions", () => {
    expectClose(frequencies({ rope_theta: 1e4, partial_rotary_factor: 0.5 }, 8, 2048).invFreq, [1, 0.01]);
  });

  test("linear divides every frequency", () => {
    expectClose(
      frequencies({ rope_theta: 1e4, rope_scaling: { type: "linear", factor: 4 } }, 8, 2048).invFreq,
      [0.25, 0.025, 0.0025, 0.00025],
    );
  });

  test("dynamic raises theta for lengths past the trained one: theta (factor length / max - factor + 1)^(d / (d - 2))", () => {
    const json = { rope_theta: 1e4, rope_scaling: { rope_type: "dynamic", factor: 2 } };
    expectClose(frequencies(json, 8, 2048, 4096).invFreq, [1, 0.06933612743506347, 0.004807498567691361, 0.0003333333333333334]);
    expectClose(frequencies(json, 8, 2048, 100).invFreq, [1, 0.1, 0.01, 0.001]);
  });

  test("llama3 keeps short wavelengths, divides long ones, blends between", () => {
    const rope_scaling = {
      rope_type: "llama3",
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    };
    const { invFreq } = frequencies({ rope_theta: 5e5, rope_scaling }, 128, 131072);
    const expected: Record<number, number> = {
      0: 1,
      20: 0.016560440080994446,
      28: 0.003211445994752591,
      29: 0.002166570763503359,
      30: 0.0013718935677611381,
      31: 0.0008567514129196321,
      34: 0.0001785078127679964,
      35: 9.556212353964683e-5,
      36: 7.78465527393245e-5,
      63: 3.068925988914511e-7,
    };
    expectClose(
      Object.keys(expected).map((i) => invFreq[Number(i)] as number),
      Object.values(expected),
    );
  });

  test("yarn ramps from kept to interpolated, and scales cos and sin by 0.1 ln(factor) + 1", () => {
    const rope_scaling = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 2048 };
    const { invFreq, scale } = frequencies({ rope_theta: 1e4, rope_scaling }, 16, 8192);
    expectClose(
      invFreq,
      [1, 0.31622776601683794, 0.1, 0.02569350598886808, 0.00625, 0.001383496476323666, 0.00025, 7.905694150420948e-5],
    );
    expect(scale).toBeCloseTo(1.138629436111989, 12);
  });

  test("yarn takes a given attention factor, or the ratio of two mscales", () => {
    const yarn = { rope_type: "yarn", factor: 40, original_max_position_embeddings: 4096 };
    expect(frequencies({ rope_scaling: { ...yarn, attention_factor: 1.5 } }, 16, 8192).scale).toBe(1.5);
    expect(frequencies({ rope_scaling: { ...yarn, mscale: 0.5, mscale_all_dim: 1 } }, 16, 8192).scale).toBeCloseTo(
      0.865259992,
      9,
    );
  });

  test.each([
    [{ rope_scaling: { rope_type: "longrope", factor: 4 } }, /rope type "longrope" is not supported; supported: default, linear/],
    [{ rope_scaling: { rope_type: "linear" } }, /rope type "linear" needs a factor above 0/],
    [{ rope_scaling: { rope_type: "linear", factor: "4" } }, /factor of the rope scaling is "4", expected a finite number/],
    [{ rope_theta: -1 }, /rope_theta is -1, expected a number above 0/],
    [
      { rope_scaling: { rope_type: "llama3", factor: 8, low_freq_factor: 4, high_freq_factor: 4 } },
      /high_freq_factor is 4, expected more than/,
    ],
  ])("refuses %j", (json, message) => {
    expect(() => readRope(json, 64, 2048, unsupported)).toThrow(message);
  });
});
