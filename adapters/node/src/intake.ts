// What a stream of the keeper brings, and who waits for it.

import type { Access } from './access.js'
import { HostLostError, IsthmusError } from './errors.js'
import type { PortOptions, StreamEvents, StreamHandle } from './port.js'
import type { Limit } from './waits.js'

interface Waiter<Item> {
  resolve(item: Item): void
  reject(reason: unknown): void
}

export class Closed extends IsthmusError {
  constructor(what: string) {
    super('ERR_ISTHMUS_CLOSED', `${what} was closed here`)
  }
}

export abstract class Intake<Item> implements StreamEvents {
  readonly areDeliveries = true
  readonly access: Access
  readonly what: string
  readonly #waiters: Waiter<Item>[] = []
  #items: Item[] = []
  #handle: StreamHandle | undefined
  #failure: { readonly reason: unknown } | undefined

  constructor(access: Access, what: string) {
    this.access = access
    this.what = what
  }

  /** The program has it. */
  protected abstract taken(item: Item): void
  /** It is another number that wait, or another place that is free. */
  protected abstract adjust(): void
  /** Whether nothing can come any more after this failure. */
  protected abstract lasts(reason: unknown): boolean

  protected get handle(): StreamHandle | undefined {
    return this.#handle
  }

  protected get waiting(): number {
    return this.#waiters.length
  }

  protected get buffered(): number {
    return this.#items.length
  }

  get isOver(): boolean {
    return this.#failure !== undefined
  }

  protected begin(name: string, args: readonly unknown[], options: PortOptions): void {
    this.#handle = this.access.port.stream(name, args, options, this)
  }

  protected takeAll(): Item[] {
    const items = this.#items
    this.#items = []
    return items
  }

  /** The next item. */
  next(limit: Limit): Promise<Item> {
    const { signal } = limit
    if (signal?.aborted) return Promise.reject(signal.reason)
    const item = this.#items.shift()
    if (item !== undefined) {
      this.taken(item)
      return Promise.resolve(item)
    }
    if (this.#failure !== undefined) {
      const { reason } = this.#failure
      if (!this.lasts(reason)) this.#failure = undefined
      return Promise.reject(reason)
    }
    return new Promise((resolve, reject) => {
      const waiter: Waiter<Item> = {
        resolve: item => {
          unwatch()
          resolve(item)
        },
        reject: reason => {
          unwatch()
          reject(reason)
        },
      }
      const unwatch = limit.watch(reason => this.#giveUp(waiter, reason))
      this.#waiters.push(waiter)
      try {
        this.adjust()
      } catch (error) {
        this.#waiters.splice(this.#waiters.indexOf(waiter), 1)
        waiter.reject(error)
      }
    })
  }

  #giveUp(waiter: Waiter<Item>, reason: unknown): void {
    const at = this.#waiters.indexOf(waiter)
    if (at < 0) return
    this.#waiters.splice(at, 1)
    waiter.reject(reason)
    if (!this.isOver) this.adjust()
  }

  items(values: unknown[]): void {
    // What was on its way when it was closed is for others.
    if (this.isOver) return
    for (const value of values as Item[]) {
      const waiter = this.#waiters.shift()
      if (waiter === undefined) this.#items.push(value)
      else {
        this.taken(value)
        waiter.resolve(value)
      }
    }
  }

  end(): void {
    this.fail(new HostLostError(`${this.what} has ended`))
  }

  fail(reason: unknown): void {
    this.#handle = undefined
    if (this.#failure !== undefined) return
    if (this.#waiters.length === 0 || this.lasts(reason)) this.#failure = { reason }
    for (const waiter of this.#waiters.splice(0)) waiter.reject(reason)
  }
}

/** Intakes of queues and subscriptions that nobody can close any more. */
export const dropped = new FinalizationRegistry<{ close(): void }>(intake => intake.close())
