// Calls in flight: a slot for each, used again once its answer has come, also when nobody waits for it any more.

import { BusFullError } from './errors.js'
import { constants } from './native.js'
import type { StreamEvents } from './port.js'
import { unlisten } from './signals.js'

export type Settle = (value: unknown) => void

/** What has to be undone when a call is settled: its timer, its signal's listener. */
export interface Watch {
  timer: NodeJS.Timeout | undefined
  signal: AbortSignal | undefined
  onAbort: (() => void) | undefined
}

export class Calls {
  /** By slot; undefined where nobody waits. */
  readonly resolve: (Settle | undefined)[] = []
  readonly reject: (Settle | undefined)[] = []
  readonly watch: (Watch | undefined)[] = []
  readonly name: string[] = []
  /** The slots of streams. */
  readonly streams = new Map<number, StreamEvents>()
  readonly #free: number[] = []

  /** A free slot. Throws BusFullError when there is none. */
  take(name: string): number {
    let slot = this.#free.pop()
    if (slot === undefined) {
      slot = this.resolve.length
      if (slot === constants.sizes.slots) throw new BusFullError(`'${name}': ${slot} calls are in flight`)
      this.resolve.push(undefined)
      this.reject.push(undefined)
      this.watch.push(undefined)
      this.name.push(name)
    } else {
      this.name[slot] = name
    }
    return slot
  }

  /** The answer has come, or the call was never sent. */
  giveBack(slot: number): void {
    this.#free.push(slot)
  }

  /** Nobody waits any more. */
  forget(slot: number): void {
    this.resolve[slot] = undefined
    this.reject[slot] = undefined
    if (this.streams.size > 0) this.streams.delete(slot)
    const watch = this.watch[slot]
    if (watch === undefined) return
    this.watch[slot] = undefined
    clearTimeout(watch.timer)
    if (watch.signal && watch.onAbort) unlisten(watch.signal, watch.onAbort)
  }

  /** The slots of calls and streams that somebody waits for. */
  *waiting(): Iterable<number> {
    for (let slot = 0; slot < this.reject.length; ++slot) {
      if (this.reject[slot] !== undefined) yield slot
    }
  }
}
