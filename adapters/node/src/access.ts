// The way of a connection to the keeper of its bus, which is a Python peer (isthmus/keeper.py): finding it, and what is sent to it, in lanes.

import { AsyncResource } from 'node:async_hooks'
import { setTimeout as delay } from 'node:timers/promises'
import { HostLostError, NotExportedError, TimeoutError } from './errors.js'
import type { Port } from './port.js'
import { listen, unlisten } from './signals.js'
import { after, milliseconds } from './timers.js'

/** What the keeper exports. */
export const verbs = {
  put: 'isthmus.queue.put',
  consume: 'isthmus.queue.consume',
  settle: 'isthmus.queue.settle',
  stats: 'isthmus.queue.stats',
  ready: 'isthmus.queue.ready',
  publish: 'isthmus.topic.publish',
  subscribe: 'isthmus.topic.subscribe',
} as const
const starter = (bus: string) => `isthmus.keep:${bus}`

/** Puts of one queue, or messages to one topic, that have no answer yet; and those of a connection to all of them, of which
 * some 1000 fit: acknowledgements go the same way, and must not wait for room behind them. */
const mostUnanswered = 64
const mostUnansweredInAll = 256
/** Milliseconds for the keeper of a bus to be there, and between two looks. */
const patience = 2000
const lookEvery = 10

/** How long to wait. */
export interface WaitOptions {
  /** Milliseconds; after that the promise rejects with `TimeoutError`. Without it, or with 0, there is no limit. */
  readonly timeout?: number
  /** Aborting rejects with the signal's reason. */
  readonly signal?: AbortSignal
}

/** The names of those. */
export const waitNames = { timeout: true, signal: true } as const

/** What one connection sends to one queue or topic. What would be too many waits here, in order, and can be withdrawn without a word. */
class Lane {
  readonly #all: { unanswered: number }
  readonly #onEmpty: () => void
  readonly #waiting = new Set<() => void>()
  #unanswered = 0

  constructor(all: { unanswered: number }, onEmpty: () => void) {
    this.#all = all
    this.#onEmpty = onEmpty
  }

  /** Does the work when it is its turn, with what is left of the time; `work` begins in the turn, and not after it. */
  send<T>(work: (timeout: number | undefined) => Promise<T>, { timeout, signal }: WaitOptions): Promise<T> {
    const limit = milliseconds(timeout ?? 0)
    if (this.#mayGo() && this.#waiting.size === 0) return this.#go(work(timeout))
    if (signal?.aborted) return Promise.reject(signal.reason)
    const until = limit === 0 ? undefined : performance.now() + limit
    return new Promise((resolve, reject) => {
      const done = () => {
        this.#waiting.delete(go)
        clearTimeout(timer)
        if (signal !== undefined) unlisten(signal, onAbort)
      }
      // In the context of who sends: the call around it, and its time, are its own.
      const go = AsyncResource.bind(() => {
        done()
        resolve(this.#go(work(until === undefined ? undefined : Math.max(until - performance.now(), 1e-6))))
      })
      const giveUp = (reason: unknown) => {
        done()
        reject(reason)
      }
      const onAbort = () => giveUp(signal?.reason)
      const tooLate = () => giveUp(new TimeoutError(`nothing was sent within ${timeout} ms`))
      const timer = after(limit, tooLate)
      if (signal !== undefined) listen(signal, onAbort)
      this.#waiting.add(go)
    })
  }

  /** One may always go, so that nobody waits for the answers of others alone. */
  #mayGo(): boolean {
    if (this.#unanswered === 0) return true
    return this.#unanswered < mostUnanswered && this.#all.unanswered < mostUnansweredInAll
  }

  #go<T>(answer: Promise<T>): Promise<T> {
    ++this.#unanswered
    ++this.#all.unanswered
    return answer.finally(() => {
      --this.#unanswered
      --this.#all.unanswered
      for (const go of this.#waiting) {
        if (!this.#mayGo()) break
        go()
      }
      if (this.#unanswered === 0) this.#onEmpty()
    })
  }
}

/** @internal The way of a bus to its keeper, which is there from the first use of a queue or topic on. */
export class Access {
  readonly port: Port
  readonly #bus: string
  #isReady = false
  #finding: Promise<void> | undefined
  readonly #all = { unanswered: 0 }
  readonly #lanes = new Map<string, Lane>()

  constructor(port: Port, bus: string) {
    this.port = port
    this.#bus = bus
  }

  /** Does something once the keeper is there. What is begun first is done first. */
  async<T>(work: () => Promise<T>): Promise<T> {
    if (this.#isReady) return work()
    if (this.#finding === undefined) {
      this.#finding = this.#find()
      // Right before what waits for it is begun: who comes sooner goes behind.
      this.#finding.then(
        () => {
          this.#isReady = true
        },
        () => {
          this.#finding = undefined
        },
      )
    }
    return this.#finding.then(work)
  }

  async #find(): Promise<void> {
    const until = performance.now() + patience
    for (;;) {
      for (const name of [verbs.ready, starter(this.#bus)]) {
        try {
          await this.port.call(name, [])
          return
        } catch (error) {
          if (!(error instanceof NotExportedError)) throw error
        }
      }
      // It joins right after the first worker.
      if (performance.now() > until) throw new HostLostError(`nobody keeps the queues of '${this.#bus}'`)
      await delay(lookEvery)
    }
  }

  /** A call that is answered when there is room in the queue or topic of this name. */
  send(
    verb: string,
    name: string,
    args: readonly unknown[],
    what: string,
    options: WaitOptions,
  ): Promise<void> {
    const { timeout, signal } = options
    const sent = this.async(() => {
      const key = `${verb}:${name}`
      let lane = this.#lanes.get(key)
      if (lane === undefined) {
        lane = new Lane(this.#all, () => this.#lanes.delete(key))
        this.#lanes.set(key, lane)
      }
      return lane.send(left => this.port.call(verb, args, { timeout: left, signal, values: true }), options)
    })
    if (timeout === undefined) return sent as Promise<void>
    return sent.catch(error => {
      if (!(error instanceof TimeoutError)) throw error
      throw new TimeoutError(`${what} had no room within ${timeout} ms`)
    }) as Promise<void>
  }
}

/** When the bus is lost, an error names what was done, and not what was called for that. */
export async function told<T>(doing: string, work: Promise<T>, signal?: AbortSignal): Promise<T> {
  try {
    return await work
  } catch (error) {
    if (!(error instanceof HostLostError) || (signal?.aborted && error === signal.reason)) throw error
    throw new HostLostError(`${doing} failed:`, error.why)
  }
}
