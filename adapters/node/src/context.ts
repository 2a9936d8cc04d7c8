// What is being served: a call of another peer, and what is known of it while its handler runs.

import { AsyncLocalStorage } from 'node:async_hooks'
import type { Outlet } from './streams.js'

/** The call that a handler serves; see `current`. */
export interface Call {
  /** The name of the export; empty when a function was called that had been passed. */
  readonly name: string
  /** What the caller calls itself; empty when it is gone, and another peer has its place. */
  readonly caller: string
  /** When the caller stops waiting, as `performance.now()` counts; undefined when it waits for ever. */
  readonly deadline: number | undefined
  /** Aborted when the caller does not wait any more, or is gone. */
  readonly signal: AbortSignal
  readonly cancelled: boolean
}

/** A call of another peer, from its arrival to its answer. */
export class Serving implements Call {
  cancelled = false
  /** It waits for its turn, is being performed, has been answered. */
  state: 'queued' | 'running' | 'done' = 'queued'
  outlet: Outlet | undefined
  #controller: AbortController | undefined
  readonly #caller: () => string

  constructor(
    readonly owner: object,
    readonly isPost: boolean,
    readonly peer: number,
    readonly peerGeneration: number,
    readonly idLow: number,
    readonly idHigh: number,
    readonly target: number,
    readonly flags: number,
    readonly credit: number,
    readonly activityLow: number,
    readonly activityHigh: number,
    readonly returnsErrors: boolean,
    readonly deadline: number | undefined,
    readonly name: string,
    public handler: unknown,
    public args: unknown[],
    caller: () => string,
  ) {
    this.#caller = caller
  }

  /** What was begun in the handler, such as a timer, remembers the call; it is not to keep what came with it alive. */
  end(): void {
    this.state = 'done'
    this.handler = undefined
    this.args = []
  }

  get caller(): string {
    return this.#caller()
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.cancelled) this.#controller.abort()
    }
    return this.#controller.signal
  }

  cancel(): void {
    if (this.cancelled) return
    this.cancelled = true
    this.outlet?.onCancel()
    this.#controller?.abort()
  }
}

const storage = new AsyncLocalStorage<Serving>()
let serves = false

/** The call that is being served here, also after an `await` of its handler. */
export function current(): Call | undefined {
  return serving()
}

export function serving(): Serving | undefined {
  return serves ? storage.getStore() : undefined
}

export function serve<T>(call: Serving, work: (call: Serving) => T): T {
  serves = true
  return storage.run(call, work, call)
}
