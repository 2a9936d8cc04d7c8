// The work of the two Node stages of a pipeline, the same whatever carries its frames.

export const frameBytes = 1 << 20
export const detectors = 3
/** How many frames may wait between two stages. */
export const depth = 16
/** How many frames a process may have on their way to the next stage. */
export const lanes = 8

const step = 4096
const touched = frameBytes / step

/** What the source does with a new frame: it writes a little of every page. */
export function paint(frame, number) {
  for (let at = 0; at < frameBytes; at += step) frame[at] = number
}

/** What every later stage does, and Python's do alike: it reads as much. */
export function look(frame) {
  let sum = 0
  for (let at = 0; at < frameBytes; at += step) sum += frame[at]
  return sum
}

/** Counts what comes to the sink: for `ms` milliseconds, once it has come for a quarter of that. */
export class Count {
  #ms
  #first
  #begin
  #frames = 0

  constructor(ms) {
    this.#ms = ms
  }

  /** Checks a frame; { frames, seconds } once it was the last. */
  add({ number, sum, total }, frame) {
    const expected = touched * (number % 256)
    if (look(frame) !== expected || sum !== expected || total < sum)
      throw new Error(`frame ${number} came wrong: ${look(frame)}, ${sum}, ${total}`)
    const now = performance.now()
    this.#first ??= now
    if (this.#begin === undefined) {
      if (now - this.#first >= this.#ms / 4) this.#begin = now
      return undefined
    }
    ++this.#frames
    const took = now - this.#begin
    return took < this.#ms ? undefined : { frames: this.#frames, seconds: took / 1000 }
  }
}
