// Who waits: for how long, and in which order.

import { AsyncResource } from 'node:async_hooks'
import { TimeoutError } from './errors.js'
import { listen, unlisten } from './signals.js'
import { after, milliseconds } from './timers.js'

/** How long to wait. */
export interface WaitOptions {
  /** Milliseconds; after that the promise rejects with `TimeoutError`. Without it, or with 0, there is no limit. */
  readonly timeout?: number
  /** Aborting rejects with the signal's reason. */
  readonly signal?: AbortSignal
}

/** The names of those. */
export const waitNames = { timeout: true, signal: true } as const

/** The end of a wait that begins now, through all that is waited for one after the other. */
export class Limit {
  readonly signal: AbortSignal | undefined
  readonly #lack: string
  readonly #timeout: number
  readonly #until: number

  /** `lack` says what there was not in time. @throws RangeError */
  constructor(lack: string, { timeout = 0, signal }: WaitOptions) {
    this.signal = signal
    this.#lack = lack
    this.#timeout = timeout
    this.#until = milliseconds(timeout) === 0 ? Number.POSITIVE_INFINITY : performance.now() + timeout
  }

  get hasTimeout(): boolean {
    return this.#until < Number.POSITIVE_INFINITY
  }

  /** Milliseconds, or 0 when there is no limit. */
  get left(): number {
    return this.hasTimeout ? Math.max(this.#until - performance.now(), 1e-6) : 0
  }

  get tooLate(): TimeoutError {
    return new TimeoutError(`${this.#lack} within ${this.#timeout} ms`)
  }

  /** Tells why it is over when it is, unless what this returns was called before. Its timer ends a wait that a program may live for. */
  watch(giveUp: (reason: unknown) => void): () => void {
    const { signal } = this
    const onAbort = () => giveUp(signal?.reason)
    const timer = after(this.left, () => giveUp(this.tooLate))?.ref()
    if (signal !== undefined) listen(signal, onAbort)
    return () => {
      clearTimeout(timer)
      if (signal !== undefined) unlisten(signal, onAbort)
    }
  }
}

export const noLimit = new Limit('', {})

interface Waiter {
  go(): void
  giveUp(reason: unknown): void
}

/** Those who wait for their turn, in order. */
export class Line {
  readonly #mayGo: () => boolean
  readonly #waiting = new Set<Waiter>()

  constructor(mayGo: () => boolean) {
    this.#mayGo = mayGo
  }

  /** Does the work when it is its turn; it begins in the turn, and not after it. */
  enter<T>(limit: Limit, work: () => Promise<T>): Promise<T> {
    if (this.#waiting.size === 0 && this.#mayGo()) return work()
    const { signal } = limit
    if (signal?.aborted) return Promise.reject(signal.reason)
    return new Promise((resolve, reject) => {
      const waiter = {
        // In the context of who waits: the call around it, and its time, are its own.
        go: AsyncResource.bind(() => {
          leave()
          resolve(work())
        }),
        giveUp: (reason: unknown) => {
          leave()
          reject(reason)
        },
      }
      const unwatch = limit.watch(waiter.giveUp)
      const leave = () => {
        this.#waiting.delete(waiter)
        unwatch()
      }
      this.#waiting.add(waiter)
    })
  }

  /** Lets those go who may. */
  advance(): void {
    for (const waiter of this.#waiting) {
      if (!this.#mayGo()) break
      waiter.go()
    }
  }

  /** Nobody's turn comes. */
  giveUp(reason: unknown): void {
    for (const waiter of this.#waiting) waiter.giveUp(reason)
  }
}
