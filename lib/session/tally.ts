/** What a scheduler did, counted. */

export interface Tally {
  /** Requests that ended, however. */
  requests: number;
  passes: number;
  steps: number;
  /** Tokens read in passes; those of them that had been read before, and were dropped for want of room. */
  readTokens: number;
  recomputedTokens: number;
  /** Tokens chosen. */
  madeTokens: number;
  /** Times that a running request gave way, by what became of its pages, and most times for one request. */
  swapPreemptions: number;
  recomputePreemptions: number;
  mostPreemptions: number;
  /** Times that a running request found no page for its next token and waited. */
  stalls: number;
  /** Pages that were dropped from sequences that did not run. */
  droppedPages: number;
  bytesIn: number;
  bytesOut: number;
  /** Seconds that the device ran passes and steps; those of them for tokens read before; and seconds that it stood still for copies. */
  busySeconds: number;
  recomputeSeconds: number;
  copyWaitSeconds: number;
}

export function emptyTally(): Tally {
  return {
    requests: 0,
    passes: 0,
    steps: 0,
    readTokens: 0,
    recomputedTokens: 0,
    madeTokens: 0,
    swapPreemptions: 0,
    recomputePreemptions: 0,
    mostPreemptions: 0,
    stalls: 0,
    droppedPages: 0,
    bytesIn: 0,
    bytesOut: 0,
    busySeconds: 0,
    recomputeSeconds: 0,
    copyWaitSeconds: 0,
  };
}
