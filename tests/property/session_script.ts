/** Random conversations, and what comes of them: alone on a large cache, or many at once on a small one. */
import type { Scheduler, Session } from "../../lib/index.js";
import type { FakeTime } from "./fake_engine.js";
import { fakeVocab } from "./fake_engine.js";

export interface Turn {
  /** Tokens that are read first, without an answer. */
  read: number[];
  question: number[];
  /** 0: the question is not asked. */
  maxTokens: number;
  temperature: number;
  seed: number;
  thinkMs: number;
  /** Tokens after which the reader leaves, or an abort comes this many milliseconds after the question. */
  leaveAfter?: number;
  abortAfterMs?: number;
}

export interface Script {
  startMs: number;
  priority: number;
  turns: Turn[];
}

export type Random = () => number;

/** Numbers in [0, 1) from a seed. */
export function randomFrom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Token 0 is the stop token, and never asked. */
const tokens = (random: Random, count: number): number[] =>
  Array.from({ length: count }, () => 1 + Math.floor(random() * (fakeVocab - 1)));

export interface ScriptSizes {
  sessions: number;
  /** Most tokens that a session reads, and makes, in a turn. */
  read: number;
  make: number;
  turns: number;
  /** Share of the turns that are broken off. */
  broken?: number;
}

export function makeScripts(random: Random, { sessions, read, make, turns, broken = 0 }: ScriptSizes): Script[] {
  const upTo = (n: number): number => 1 + Math.floor(random() * n);
  return Array.from({ length: sessions }, () => ({
    startMs: Math.floor(random() * 40),
    priority: Math.floor(random() * 3) - 1,
    turns: Array.from({ length: upTo(turns) }, () => {
      const turn: Turn = {
        read: random() < 0.4 ? tokens(random, upTo(read)) : [],
        question: tokens(random, upTo(read)),
        maxTokens: upTo(make),
        temperature: random() < 0.5 ? 0 : 1,
        seed: upTo(1000),
        thinkMs: Math.floor(random() * 30),
      };
      if (random() < broken) {
        if (random() < 0.5) turn.leaveAfter = Math.floor(random() * make);
        else turn.abortAfterMs = Math.floor(random() * 60);
      }
      return turn;
    }),
  }));
}

/** Answers of a conversation, turn by turn; "aborted" where it was. */
export async function converse(session: Session, script: Script, time: FakeTime): Promise<(number[] | "aborted")[]> {
  const answers: (number[] | "aborted")[] = [];
  await time.after(script.startMs);
  for (const turn of script.turns) {
    if (turn.read.length > 0) await session.prefill(turn.read);
    answers.push(turn.maxTokens === 0 ? "aborted" : await ask(session, turn, time));
    await time.after(turn.thinkMs);
  }
  return answers;
}

async function ask(session: Session, turn: Turn, time: FakeTime): Promise<number[] | "aborted"> {
  const { maxTokens, temperature, seed, leaveAfter, abortAfterMs } = turn;
  const abort = new AbortController();
  const aborted = new Error("enough");
  const before = session.length;
  const answer = session.ask(turn.question, { maxTokens, temperature, seed, stopTokens: [0], signal: abort.signal });
  if (abortAfterMs !== undefined) void time.after(abortAfterMs).then(() => abort.abort(aborted));
  const made: number[] = [];
  try {
    for await (const { token } of answer) {
      made.push(token);
      if (made.length === leaveAfter) break;
    }
  } catch (error) {
    if (error !== aborted) throw error;
    if (session.length !== before) throw new Error(`an aborted question left ${session.length - before} tokens`);
    return "aborted";
  }
  return made;
}

/** Every conversation at once. */
export async function converseAll(
  scheduler: Scheduler,
  scripts: readonly Script[],
  time: FakeTime,
): Promise<(number[] | "aborted")[][]> {
  const sessions = scripts.map(({ priority }) => scheduler.open({ priority }));
  const answers = await Promise.all(scripts.map((script, i) => converse(sessions[i] as Session, script, time)));
  await Promise.all(sessions.map((session) => session.close()));
  return answers;
}
