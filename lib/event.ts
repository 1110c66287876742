/** A point in a stream that other streams, of any device and backend, can wait for. */
import { KvasirError, fromNative } from "./errors.js";
import type { NativeEvent } from "./native.js";

/** Internal: the addon's object behind an event. */
export let nativeEvent: (event: Event) => NativeEvent;

/**
 * Orders work across streams without JavaScript: `a.record(event); b.wait(event)` makes what is enqueued on `b` afterwards start only
 * when `a` got to the record. Created by `device.createEvent()`; usable with streams of every device.
 */
export class Event implements Disposable {
  #native: NativeEvent | undefined;

  /** @internal */
  constructor(native: NativeEvent) {
    this.#native = native;
  }

  static {
    nativeEvent = (event) => {
      if (typeof event !== "object" || event === null || !(#native in event)) {
        throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", "event is no Event; make one with device.createEvent()");
      }
      if (event.#native === undefined)
        throw new KvasirError("ERR_KVASIR_DISPOSED", "Event was disposed; make another with device.createEvent()");
      return event.#native;
    };
  }

  /** Whether the latest record was reached; true before the first. @throws ERR_KVASIR_DISPOSED */
  query(): boolean {
    try {
      return nativeEvent(this).query();
    } catch (error) {
      throw fromNative(error);
    }
  }

  get disposed(): boolean {
    return this.#native === undefined;
  }

  /** Safe while streams still wait for it; a no-op the second time. */
  dispose(): void {
    this.#native?.dispose();
    this.#native = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
