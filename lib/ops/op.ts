/** The one path from an op's TypeScript arguments to the addon: names are checked here, shapes, dtypes and values by native/contracts. */
import { KvasirError, fromNative } from "../errors.js";
import { type NativeValue, addon } from "../native.js";
import { describe, unknownOption } from "../options.js";
import { type Stream, nativeStream } from "../stream.js";
import { Tensor, nativeTensor } from "../tensor.js";

export type OpArgs = object;

interface Op {
  readonly id: number;
  /** Place of each field among the values that the addon takes. */
  readonly fields: ReadonlyMap<string, number>;
}

const ops = new Map<string, Op>();

function lookUp(name: string): Op {
  const known = ops.get(name);
  if (known !== undefined) return known;
  const id = addon().opNames.indexOf(name);
  if (id < 0)
    throw new KvasirError("ERR_KVASIR_INTERNAL", `the native addon has no op ${name}; rebuild it with \`npm run build\``);
  const op: Op = { id, fields: new Map(addon().opFields[id]?.map((field, place) => [field, place])) };
  ops.set(name, op);
  return op;
}

/** The values by place: tensors become the addon's; everything else goes through as it is, for the contract to judge. */
function pack(name: string, op: Op, stream: Stream, args: Record<string, unknown>): readonly NativeValue[] {
  if (typeof args !== "object" || args === null) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `${name}: args is ${describe(args)}, expected an object of tensors and options`,
    );
  }
  const values = new Array<NativeValue>(op.fields.size).fill(undefined);
  for (const key in args) {
    const value = args[key];
    const place = op.fields.get(key);
    if (place === undefined) throw unknownOption(name, key, [...op.fields.keys()]);
    if (value instanceof Tensor) {
      if (value.device !== stream.device) throw foreign(name, key, value, stream);
      values[place] = nativeTensor(value);
    } else if (typeof value === "number" || typeof value === "boolean") {
      values[place] = value;
    } else if (value !== undefined) {
      throw new KvasirError(
        "ERR_KVASIR_INVALID_ARGUMENT",
        `${name}: ${key} is ${describe(value)}, expected a Tensor, a number or a boolean`,
      );
    }
  }
  return values;
}

function foreign(name: string, key: string, tensor: Tensor, stream: Stream): KvasirError {
  const place = ({ device }: Tensor | Stream): string => `${device.backend}:${device.index}`;
  const where = place(tensor) === place(stream) ? "another opening of the same device" : place(tensor);
  return new KvasirError(
    "ERR_KVASIR_INVALID_ARGUMENT",
    `${name}: ${key} lives on ${where}, expected the stream's device, ${place(stream)}`,
  );
}

/** Checks the arguments and enqueues the op. */
export function enqueue(name: string, stream: Stream, args: OpArgs): void {
  const native = nativeStream(stream);
  const op = lookUp(name);
  try {
    native.enqueue(op.id, ...pack(name, op, stream, args as Record<string, unknown>));
  } catch (error) {
    throw fromNative(error);
  }
}

/**
 * Scratch bytes that an op with these arguments takes from the stream, by the op's stem ("attention", "linear").
 * @throws as the op itself
 */
export function workspaceBytes(name: string, stream: Stream, args: OpArgs): number {
  const native = nativeStream(stream);
  const op = lookUp(name);
  try {
    return native.workspaceBytes(op.id, ...pack(name, op, stream, args as Record<string, unknown>));
  } catch (error) {
    throw fromNative(error);
  }
}
