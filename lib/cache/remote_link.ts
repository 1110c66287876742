/** The cache's end of the thread that speaks to the store. Requests never reject: what goes wrong is a reply. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { KvasirError } from "../errors.js";
import {
  CONNECT_TIMEOUT_MS,
  type Greeting,
  type Numbered,
  type Reply,
  type Request,
  type WorkerSettings,
} from "./remote_protocol.js";

/** Beside this file where it is compiled; where it runs from its source, as in tests, in the compiled tree. */
function workerFile(): URL {
  const beside = new URL("./remote_worker.js", import.meta.url);
  return existsSync(fileURLToPath(beside)) ? beside : new URL("../../dist/lib/cache/remote_worker.js", import.meta.url);
}

const failed = (failure: string): Reply => ({ failure });

export class RemoteLink {
  readonly #settings: WorkerSettings;
  readonly #pending: Map<number, (reply: Reply) => void> = new Map();
  #worker: Worker | undefined;
  #outbox: Numbered<Request>[] = [];
  #nextId = 0;
  #watchdog: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(settings: WorkerSettings) {
    this.#settings = settings;
  }

  /** Starts the thread. @throws ERR_KVASIR_UNSUPPORTED where the client package does not load */
  async start(): Promise<void> {
    const worker = new Worker(workerFile(), { workerData: this.#settings, execArgv: [], name: "kvasir remote tier" });
    worker.on("error", (error) => this.#ended(worker, `its client thread failed: ${error.message}`));
    worker.on("exit", (code) => this.#ended(worker, `its client thread ended with ${code}`));
    const greeting = await new Promise<Greeting>((resolve) => {
      worker.once("message", resolve);
      worker.once("error", (error) => resolve({ failure: error.message }));
      worker.once("exit", (code) => resolve({ failure: `its thread ended with ${code}` }));
    });
    if (greeting.failure !== undefined) {
      await worker.terminate();
      const { client } = this.#settings;
      const next = greeting.isMissing ? `is not installed; run \`npm install ${client}\`` : `does not load: ${greeting.failure}`;
      throw new KvasirError("ERR_KVASIR_UNSUPPORTED", `The remote tier needs the package ${client}, which ${next}`);
    }
    if (this.#isClosed) return void (await worker.terminate());
    worker.on("message", (replies: Numbered<Reply>[]) => this.#receive(replies));
    this.#worker = worker;
    this.#hold();
  }

  get isRunning(): boolean {
    return this.#worker !== undefined;
  }

  /** Resolves within a time that the settings bound, also where the store does not answer. */
  request(request: Request): Promise<Reply> {
    if (this.#worker === undefined) return Promise.resolve(failed("its client thread does not run"));
    const id = this.#nextId++;
    if (this.#outbox.length === 0) queueMicrotask(() => this.#flush());
    this.#outbox.push({ ...request, id });
    return new Promise((resolve) => {
      this.#pending.set(id, resolve);
      this.#hold();
    });
  }

  /** Ends the thread; what is under way fails. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#worker?.terminate();
  }

  #flush(): void {
    this.#worker?.postMessage(this.#outbox);
    this.#outbox = [];
  }

  #receive(replies: readonly Numbered<Reply>[]): void {
    this.#watchdog?.refresh();
    for (const reply of replies) {
      const resolve = this.#pending.get(reply.id);
      this.#pending.delete(reply.id);
      resolve?.(reply);
    }
    this.#hold();
  }

  /** The thread keeps the process alive, and is watched, while somebody waits for it. */
  #hold(): void {
    if (this.#pending.size === 0) {
      this.#worker?.unref();
      clearTimeout(this.#watchdog);
      this.#watchdog = undefined;
      return;
    }
    if (this.#watchdog !== undefined) return;
    this.#worker?.ref();
    // Every request is answered within its deadline, unless the thread itself hangs.
    const limit = 2 * this.#settings.timeoutMs + CONNECT_TIMEOUT_MS + 1000;
    this.#watchdog = setTimeout(() => void this.#worker?.terminate(), limit);
  }

  #ended(worker: Worker, reason: string): void {
    if (worker !== this.#worker) return;
    this.#worker = undefined;
    this.#outbox = [];
    const waiting = [...this.#pending.values()];
    this.#pending.clear();
    this.#hold();
    for (const resolve of waiting) resolve(failed(this.#isClosed ? "the tier was closed" : reason));
  }
}
