// The way of a connection to the keeper of its bus, which is a Python peer (isthmus/keeper.py): finding it, and what is sent to it, in lanes.

import { setTimeout as delay } from 'node:timers/promises'
import { HostLostError, NotExportedError, TimeoutError } from './errors.js'
import type { Port } from './port.js'
import { type Limit, Line, noLimit } from './waits.js'

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

/** What one connection sends to one queue or topic. What would be too many waits here, and can be withdrawn without a word. */
class Lane {
  readonly #all: { unanswered: number }
  readonly #onEmpty: () => void
  readonly #line = new Line(() => this.#mayGo())
  #unanswered = 0

  constructor(all: { unanswered: number }, onEmpty: () => void) {
    this.#all = all
    this.#onEmpty = onEmpty
  }

  send<T>(limit: Limit, work: () => Promise<T>): Promise<T> {
    return this.#line.enter(limit, () => this.#go(work()))
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
      this.#line.advance()
      if (this.#unanswered === 0) this.#onEmpty()
    })
  }
}

/** @internal The way of a bus to its keeper, which is there from the first use of a queue or topic on. */
export class Access {
  readonly port: Port
  readonly #bus: string
  #keeper: 'unknown' | 'sought' | 'there' = 'unknown'
  readonly #line = new Line(() => this.#keeper === 'there')
  readonly #all = { unanswered: 0 }
  readonly #lanes = new Map<string, Lane>()

  constructor(port: Port, bus: string) {
    this.port = port
    this.#bus = bus
  }

  /** Does something once the keeper is there. What is begun first is done first. */
  async<T>(work: () => Promise<T>, limit = noLimit): Promise<T> {
    if (this.#keeper === 'unknown') void this.#seek()
    return this.#line.enter(limit, work)
  }

  /** For all who come until it is over, whether or not they wait for its end. */
  async #seek(): Promise<void> {
    this.#keeper = 'sought'
    try {
      await this.#find(false)
      this.#keeper = 'there'
      this.#line.advance()
    } catch (error) {
      this.#keeper = 'unknown'
      this.#line.giveUp(error)
    }
  }

  /** At first as a part of the call that is being served, if any: a host that waits for this call's answer performs nothing else. */
  async #find(detached: boolean): Promise<void> {
    const until = performance.now() + patience
    for (;;) {
      for (const name of [verbs.ready, starter(this.#bus)]) {
        try {
          await this.port.call(name, [], { detached })
          return
        } catch (error) {
          // That call's time has run out, and nobody else's.
          if (error instanceof TimeoutError && !detached) return this.#find(true)
          if (!(error instanceof NotExportedError)) throw error
        }
      }
      // It joins right after the first worker.
      if (performance.now() > until) throw new HostLostError(`nobody keeps the queues of '${this.#bus}'`)
      await delay(lookEvery)
    }
  }

  /** A call that is answered when there is room in the queue or topic of this name. */
  async send(verb: string, name: string, args: readonly unknown[], limit: Limit): Promise<void> {
    const { signal } = limit
    const call = () => this.port.call(verb, args, { timeout: limit.left, signal, values: true })
    try {
      await this.async(() => this.#lane(`${verb}:${name}`).send(limit, call), limit)
    } catch (error) {
      throw error instanceof TimeoutError && limit.hasTimeout ? limit.tooLate : error
    }
  }

  #lane(key: string): Lane {
    let lane = this.#lanes.get(key)
    if (lane === undefined) {
      lane = new Lane(this.#all, () => this.#lanes.delete(key))
      this.#lanes.set(key, lane)
    }
    return lane
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
