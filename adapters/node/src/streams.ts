// Streams: what comes in is taken as fast as it is consumed, what goes out is sent as fast as the other side allows.

import { types } from 'node:util'
import { blockedError, HostLostError } from './errors.js'
import type { StreamEvents, StreamHandle } from './port.js'

/** How many items may be on their way; as many again are allowed once half of them have been consumed. */
export const initialCredit = 1024

const done: IteratorReturnResult<undefined> = { done: true, value: undefined }

// What is left of a stream whose consumer was collected before its end is closed on the other side.
const abandoned = new FinalizationRegistry<Intake>(intake => intake.cancel())

type Start = (on: StreamEvents) => StreamHandle | Promise<StreamHandle>

/**
 * The items of a stream, as an async iterator. The stream begins when the first item is asked for; leaving a `for await` loop early
 * closes it on the other side, and waits for that.
 */
export class Incoming<T = unknown> implements AsyncIterableIterator<T>, AsyncDisposable {
  readonly #start: Start
  readonly #signal: AbortSignal | undefined
  #intake: Intake | undefined

  /** @internal */
  constructor(start: Start, signal?: AbortSignal) {
    this.#start = start
    this.#signal = signal
  }

  next(): Promise<IteratorResult<T, undefined>> {
    let intake = this.#intake
    if (intake === undefined) {
      intake = this.#intake = new Intake(this.#signal)
      abandoned.register(this, intake, this)
      intake.begin(this.#start)
    }
    return intake.next(this) as Promise<IteratorResult<T, undefined>>
  }

  /** Closes the stream; what the other side does to clean up has been done when the promise is fulfilled. */
  async return(): Promise<IteratorResult<T, undefined>> {
    abandoned.unregister(this)
    this.#intake ??= new Intake(undefined)
    await this.#intake.close()
    return done
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }
}

interface Waiter {
  /** Not collected as long as it waits. */
  readonly consumer: object
  resolve(result: IteratorResult<unknown, undefined>): void
  reject(reason: unknown): void
}

/** What has arrived and is not consumed yet, or who waits for it. */
class Intake implements StreamEvents {
  readonly #signal: AbortSignal | undefined
  #handle: StreamHandle | undefined
  #items: unknown[] = []
  #next = 0
  #later: unknown[][] = []
  #waiters: Waiter[] = []
  #consumed = 0
  #state: 'new' | 'open' | 'closing' | 'ended' = 'new'
  #failure: { readonly reason: unknown } | undefined
  #onEnd: (() => void) | undefined

  constructor(signal: AbortSignal | undefined) {
    this.#signal = signal
  }

  begin(start: Start): void {
    this.#state = 'open'
    try {
      const handle = start(this)
      if (!(handle instanceof Promise)) this.#opened(handle)
      else {
        handle.then(
          opened => this.#opened(opened),
          error => this.fail(error),
        )
      }
    } catch (error) {
      this.fail(error)
    }
  }

  #opened(handle: StreamHandle): void {
    if (this.#state === 'ended') return
    this.#handle = handle
    if (this.#state === 'closing') handle.cancel()
  }

  next(consumer: object): Promise<IteratorResult<unknown, undefined>> {
    if (this.#signal?.aborted) this.#drop()
    if (this.#hasItem()) return Promise.resolve(this.#take())
    if (this.#state === 'open') {
      return new Promise((resolve, reject) => {
        this.#waiters.push({ consumer, resolve, reject })
      })
    }
    const failure = this.#failure
    this.#failure = undefined
    return failure === undefined ? Promise.resolve(done) : Promise.reject(failure.reason)
  }

  #hasItem(): boolean {
    if (this.#next < this.#items.length) return true
    const items = this.#later.shift()
    if (items === undefined) return false
    this.#items = items
    this.#next = 0
    return true
  }

  #take(): IteratorYieldResult<unknown> {
    const value = this.#items[this.#next]
    this.#items[this.#next++] = undefined
    if (++this.#consumed === initialCredit / 2) {
      this.#consumed = 0
      if (this.#state === 'open') this.#handle?.credit(initialCredit / 2)
    }
    return { done: false, value }
  }

  #drop(): void {
    this.#items = []
    this.#next = 0
    this.#later = []
  }

  items(values: unknown[]): void {
    if (this.#state !== 'open' || values.length === 0) return
    this.#later.push(values)
    while (this.#waiters.length > 0 && this.#hasItem()) this.#waiters.shift()?.resolve(this.#take())
  }

  end(): void {
    this.#ended()
  }

  fail(reason: unknown): void {
    const waiter = this.#state === 'closing' ? undefined : this.#waiters.shift()
    if (waiter === undefined) this.#failure = { reason }
    else waiter.reject(reason)
    this.#ended()
  }

  #ended(): void {
    this.#state = 'ended'
    this.#handle = undefined
    for (const waiter of this.#waiters.splice(0)) waiter.resolve(done)
    this.#onEnd?.()
  }

  cancel(): void {
    if (this.#state !== 'open') return
    this.#state = 'closing'
    this.#handle?.cancel()
  }

  /** Nothing more is wanted; rejects with what went wrong while the other side closed the stream. */
  async close(): Promise<void> {
    this.#drop()
    for (const waiter of this.#waiters.splice(0)) waiter.resolve(done)
    if (this.#state === 'new' || this.#state === 'ended') {
      this.#state = 'ended'
      this.#failure = undefined
      return
    }
    await new Promise<void>(resolve => {
      this.#onEnd = resolve
      this.cancel()
    })
    const failure = this.#failure
    this.#failure = undefined
    if (failure !== undefined && !(failure.reason instanceof HostLostError)) throw failure.reason
  }
}

// --- the other way -------------------------------------------------------------------------------------------

/** Where the items of a stream go that this isolate serves. */
export interface Outlet {
  /** Sends items; throws for one that can't travel. */
  items(values: readonly unknown[]): void
  end(): void
  fail(reason: unknown): void
  /** The other side takes that many more. */
  onCredit: (more: number) => void
  /** The other side wants no more; `end` or `fail` is still due. */
  onCancel: () => void
  /** Whether this isolate is blocked in a call, so that no promise of its is ever settled. */
  isBlocked(): boolean
}

const mostInBatch = 256
/** A source is not run for longer without a pause: milliseconds. */
const stretch = 1
const awaitThere = 'call with await there'

/** Whether a value is a stream, which is lent, rather than a collection, which travels. */
export function isStream(value: object): boolean {
  const some = value as Source
  if (typeof some[Symbol.asyncIterator] === 'function') return true
  if (typeof some.next === 'function' && typeof some[Symbol.iterator] === 'function') return true
  return typeof some.getReader === 'function'
}

interface Source {
  [Symbol.asyncIterator]?(): AsyncIterator<unknown>
  [Symbol.iterator]?(): Iterator<unknown>
  getReader?(): ReadableStreamDefaultReader<unknown>
  next?(): unknown
}

type AnyIterator = Iterator<unknown> | AsyncIterator<unknown>

function iteratorOf(source: unknown): { iterator: AnyIterator; isAsync: boolean } {
  const some = (source ?? {}) as Source
  const { [Symbol.asyncIterator]: iterateAsync, [Symbol.iterator]: iterate, getReader } = some
  if (typeof iterateAsync === 'function') return { iterator: iterateAsync.call(some), isAsync: true }
  if (typeof iterate === 'function') return { iterator: iterate.call(some), isAsync: false }
  if (typeof getReader === 'function') return { iterator: readerOf(getReader.call(some)), isAsync: true }
  throw new TypeError(
    `${source === null ? 'null' : `a value of type ${typeof source}`} is no stream of items`,
  )
}

/** For Web Streams of engines that do not iterate over them. */
function readerOf(reader: ReadableStreamDefaultReader<unknown>): AsyncIterator<unknown> {
  return {
    next: () => reader.read() as Promise<IteratorResult<unknown>>,
    return: async () => {
      await reader.cancel()
      return done
    },
  }
}

/** Sends what a source gives, as far as the other side has credit for it, and closes the source when that wants no more. */
export function pump(source: unknown, credit: number, outlet: Outlet): void {
  try {
    const { iterator, isAsync } = iteratorOf(source)
    if (!isAsync) new SyncPump(iterator as Iterator<unknown>, credit, outlet).run()
    else if (outlet.isBlocked()) throw blockedError('an async iterable was to be streamed', awaitThere)
    else void new AsyncPump(iterator as AsyncIterator<unknown>, credit, outlet).run()
  } catch (error) {
    outlet.fail(error)
  }
}

abstract class Pump {
  protected credit: number
  protected closed = false
  protected readonly outlet: Outlet
  #batch: unknown[] = []

  constructor(credit: number, outlet: Outlet) {
    this.credit = credit
    this.outlet = outlet
    outlet.onCredit = more => {
      this.credit += more
      this.goOn()
    }
    outlet.onCancel = () => this.close(undefined)
  }

  /** There is credit again, or the source was closed. */
  protected abstract goOn(): void
  /** Closes the source before its end: because nothing more is wanted, or because of an error. */
  protected abstract close(failure: { readonly error: unknown } | undefined): void

  /** Whether the batch is to be sent now. */
  protected add(item: unknown): boolean {
    --this.credit
    return this.#batch.push(item) >= mostInBatch || this.credit <= 0
  }

  /** Sends what is ready. What can't travel ends the stream, and closes its source. */
  protected flush(): void {
    if (this.#batch.length === 0 || this.closed) return
    const batch = this.#batch
    this.#batch = []
    try {
      this.outlet.items(batch)
    } catch (error) {
      this.close({ error })
    }
  }

  /** The source has come to its end. */
  protected finish(failure: { readonly error: unknown } | undefined): void {
    this.flush()
    if (this.closed) return
    this.closed = true
    this.tell(failure)
  }

  protected tell(failure: { readonly error: unknown } | undefined): void {
    if (failure === undefined) this.outlet.end()
    else this.outlet.fail(failure.error)
  }
}

/** For sources whose items are there when they are asked for. It takes no promises: its isolate may be blocked in a call. */
class SyncPump extends Pump {
  readonly #iterator: Iterator<unknown>
  #state: 'idle' | 'running' | 'paused' | 'waiting' = 'idle'

  constructor(iterator: Iterator<unknown>, credit: number, outlet: Outlet) {
    super(credit, outlet)
    this.#iterator = iterator
  }

  run(): void {
    this.#state = 'running'
    let until = performance.now() + stretch
    while (this.credit > 0 && !this.closed) {
      let done: boolean | undefined
      let value: unknown
      try {
        const result = this.#iterator.next()
        done = result.done
        value = done ? undefined : result.value
      } catch (error) {
        this.finish({ error })
        return
      }
      if (done) {
        this.finish(undefined)
        return
      }
      if (types.isPromise(value)) {
        this.#wait(value)
        return
      }
      if (this.add(value)) this.flush()
      if (performance.now() < until) continue
      this.flush()
      if (!this.outlet.isBlocked()) {
        this.#pause()
        return
      }
      until = performance.now() + stretch
    }
    this.#state = 'idle'
  }

  #pause(): void {
    this.#state = 'paused'
    setImmediate(() => {
      if (!this.closed) this.run()
    })
  }

  /** A generator that is not async may yield promises. */
  #wait(item: Promise<unknown>): void {
    this.flush()
    if (this.outlet.isBlocked()) {
      item.catch(() => {})
      this.close({ error: blockedError('a promise was to be streamed', awaitThere) })
      return
    }
    this.#state = 'waiting'
    item.then(
      value => {
        if (this.closed) return
        if (this.add(value)) this.flush()
        this.run()
      },
      error => this.close({ error }),
    )
  }

  protected goOn(): void {
    if (this.#state === 'idle' && !this.closed) this.run()
  }

  protected close(failure: { readonly error: unknown } | undefined): void {
    if (this.closed) return
    this.closed = true
    try {
      this.#iterator.return?.()
    } catch (error) {
      failure ??= { error }
    }
    this.tell(failure)
  }
}

class AsyncPump extends Pump {
  readonly #iterator: AsyncIterator<unknown>
  #flushing: NodeJS.Immediate | undefined
  #resume: (() => void) | undefined

  constructor(iterator: AsyncIterator<unknown>, credit: number, outlet: Outlet) {
    super(credit, outlet)
    this.#iterator = iterator
  }

  async run(): Promise<void> {
    let until = performance.now() + stretch
    try {
      for (;;) {
        while (this.credit <= 0 && !this.closed) {
          await new Promise<void>(resolve => {
            this.#resume = resolve
          })
        }
        if (this.closed) return
        const { done, value } = await this.#iterator.next()
        if (this.closed) return
        if (done) break
        if (this.add(value)) this.flush()
        else this.#flushing ??= setImmediate(() => this.flush())
        if (performance.now() < until) continue
        this.flush()
        await new Promise(setImmediate)
        until = performance.now() + stretch
      }
    } catch (error) {
      this.finish({ error })
      return
    }
    this.finish(undefined)
  }

  protected override flush(): void {
    clearImmediate(this.#flushing)
    this.#flushing = undefined
    super.flush()
  }

  protected goOn(): void {
    const resume = this.#resume
    this.#resume = undefined
    resume?.()
  }

  protected close(failure: { readonly error: unknown } | undefined): void {
    if (this.closed) return
    this.closed = true
    clearImmediate(this.#flushing)
    this.goOn()
    this.#return().then(
      () => this.tell(failure),
      error => this.tell(failure ?? { error }),
    )
  }

  async #return(): Promise<void> {
    await this.#iterator.return?.()
  }
}
