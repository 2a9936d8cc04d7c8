// A connection to a bus: calls, their answers, and the life of both.

import { Memory, type NDArray, release, type TypedArray, type TypedArrayConstructor } from './arrays.js'
import { Calls, type Settle } from './calls.js'
import { Decoder, pythonError } from './decode.js'
import { Encoder } from './encode.js'
import {
  closedError,
  errorOf,
  HostLostError,
  type IsthmusError,
  NotExportedError,
  TimeoutError,
} from './errors.js'
import { KeywordArguments } from './marks.js'
import { type Counters, constants, type NativeConnection } from './native.js'

import type {
  AnyExports,
  ArgumentsOf,
  CallArguments,
  FunctionsOf,
  NameOf,
  ResultOf,
  UndeclaredName,
  WithNamed,
} from './types.js'

const { kinds, fields, sizes, statuses, words, doubles, loops } = constants
const OK = statuses.ok
const REPLY = kinds.reply
const descriptorWords = sizes.descriptorWords
const chores = 1000
const idleChores = 8
const delivery = 1000
const longestTimer = 2 ** 31 - 1

/** How a call is made. */
export interface CallOptions {
  /** Python's named arguments. */
  readonly kwargs?: Readonly<Record<string, unknown>>
  /** Milliseconds, 0 for no limit; after that the call rejects with `TimeoutError`, and the host no longer begins it. */
  readonly timeout?: number
  /** Aborting rejects the call with the signal's reason, and tells the host that nobody waits for it. */
  readonly signal?: AbortSignal
}

/** How many calls are made with `callMany`. */
export interface CallManyOptions extends CallOptions {
  /** Failed calls become `Error` values in their places; else the first failure rejects. */
  readonly settled?: boolean
}

/** A Python function, as one of `Bus.exports`. Its last argument may be `kwargs({…})`. */
export type ExportedFunction = (...args: readonly unknown[]) => Promise<unknown>

/** What `Bus.stats` tells: counters since the peer joined, one object for each side. */
export interface Stats {
  /** This isolate. `calls` are those it has submitted. */
  readonly self: Counters
  /** The host, or null when there is none any more. `calls` are those it has answered. */
  readonly host: Counters | null
}

// One executor for all promises: it hands both functions out instead of closing over them.
let resolveIt: Settle
let rejectIt: Settle
function hand(resolve: Settle, reject: Settle): void {
  resolveIt = resolve
  rejectIt = reject
}

function milliseconds(timeout: number): number {
  if (timeout >= 0) return timeout
  throw new RangeError(`${timeout} is no number of milliseconds`)
}

/** What a host that was spawned adds to its bus. */
export interface Companion {
  /** How the host ended, as part of a sentence; waits a moment for it to be known. */
  howItEnded(): Promise<string | undefined>
  /** How the host ended, as far as it is known now. */
  readonly ended: string | undefined
  stop(): Promise<void>
}

/** @internal */
export interface Buffers {
  control: ArrayBuffer
  descriptors: ArrayBuffer
  inbox: ArrayBuffer
  onWake: () => void
}

/**
 * A place on a bus. Made by `connect` and `spawn`; each isolate (the main thread, a worker) makes its own.
 *
 * An idle connection does not keep the event loop alive; calls in flight do.
 */
export class Bus<Exports extends object = AnyExports> implements AsyncDisposable {
  /** The bus's name: another isolate can `connect` to it. */
  readonly name: string
  /** Every function that Python exports, under its name: `py.exports.fit(x, kwargs({ epochs: 3 }))`. */
  readonly exports: FunctionsOf<Exports>

  readonly #native: NativeConnection
  readonly #memory: Memory
  readonly #encoder: Encoder
  readonly #decoder: Decoder
  readonly #words: Int32Array
  readonly #doubles: Float64Array
  readonly #descriptors: Int32Array
  readonly #inbox: ArrayBuffer
  readonly #calls = new Calls()
  readonly #companion: Companion | undefined

  // The names of exports that were called, as the addon numbers them.
  readonly #names = new Map<string, number>()
  #lastName: string | undefined
  #lastNumber = -1

  // What was drained and is not settled yet.
  #next = 0
  #count = 0

  // The slot that callSync waits for, and its answer.
  #awaited = -1
  #answer: unknown
  #failure: unknown

  #posted = false
  #closing: Promise<void> | undefined
  #chores: NodeJS.Timeout | undefined
  #idle = 0

  /** @internal */
  constructor(
    name: string,
    connection: NativeConnection,
    buffers: Buffers,
    companion: Companion | undefined,
  ) {
    this.name = name
    this.#native = connection
    this.#companion = companion
    this.#words = new Int32Array(buffers.control, 0, constants.doubles.timeout * 2)
    this.#doubles = new Float64Array(buffers.control)
    this.#descriptors = new Int32Array(buffers.descriptors)
    this.#inbox = buffers.inbox
    this.#memory = new Memory(connection, buffers.control)
    this.#encoder = new Encoder(connection, this.#words, this.#memory)
    this.#decoder = new Decoder(this.#memory, buffers.inbox)
    this.exports = this.#proxy() as unknown as FunctionsOf<Exports>
    buffers.onWake = () => this.#drain()
  }

  /**
   * Calls a function that Python exports.
   *
   * @throws (as a rejection) PythonError, NotExportedError, EncodeError, TimeoutError, HostLostError, BusFullError, or the
   * signal's reason.
   */
  call<T = unknown>(
    name: UndeclaredName<Exports>,
    args?: readonly unknown[],
    options?: CallOptions,
  ): Promise<T>
  call<Name extends NameOf<Exports>>(
    name: Name,
    ...rest: CallArguments<Exports[Name], CallOptions>
  ): Promise<ResultOf<Exports[Name]>>
  call(name: string, args: readonly unknown[] = [], options?: CallOptions): Promise<unknown> {
    try {
      const slot = this.#submit(name, args, options)
      const promise = new Promise<unknown>(hand)
      this.#calls.resolve[slot] = resolveIt
      this.#calls.reject[slot] = rejectIt
      if (options !== undefined) this.#watch(slot, options)
      return promise
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** Calls, and blocks this isolate until the answer has come. A signal is looked at only before the call. */
  callSync<T = unknown>(name: UndeclaredName<Exports>, args?: readonly unknown[], options?: CallOptions): T
  callSync<Name extends NameOf<Exports>>(
    name: Name,
    ...rest: CallArguments<Exports[Name], CallOptions>
  ): ResultOf<Exports[Name]>
  callSync(name: string, args: readonly unknown[] = [], options?: CallOptions): unknown {
    options?.signal?.throwIfAborted()
    this.#settleDrained()
    const timeout = options?.timeout ?? 0
    const until = timeout > 0 ? performance.now() + timeout : 0
    const slot = this.#stage(kinds.call, name, args, options)
    const outer = this.#awaited
    let large = this.#native.callAndWait()
    this.#sent(slot)
    this.#awaited = slot
    try {
      for (;;) {
        const timedOut = this.#words[words.status] === statuses.timed_out
        this.#settleAll(large)
        if (this.#awaited !== slot) break
        if (timedOut) {
          this.#words[words.slot] = slot
          this.#native.cancel()
          throw this.#tooLate(name, timeout)
        }
        this.#doubles[doubles.timeout] = until > 0 ? Math.max(until - performance.now(), 1e-6) : 0
        large = this.#native.wait()
      }
    } finally {
      this.#awaited = outer
    }
    const failure = this.#failure
    const answer = this.#answer
    this.#failure = this.#answer = undefined
    if (failure !== undefined) throw failure
    return answer
  }

  /** Calls without waiting for anything; the host logs a failure. @throws EncodeError, HostLostError, BusFullError */
  post(name: UndeclaredName<Exports>, args?: readonly unknown[], options?: Pick<CallOptions, 'kwargs'>): void
  post<Name extends NameOf<Exports>>(
    name: Name,
    ...rest: CallArguments<Exports[Name], Pick<CallOptions, 'kwargs'>>
  ): void
  post(name: string, args: readonly unknown[] = [], options?: Pick<CallOptions, 'kwargs'>): void {
    this.#stage(kinds.post, name, args, options)
    this.#posted = true
    this.#native.submit()
    this.#sent(-1)
  }

  /**
   * Many calls of one function in one go. Resolves to the results in order; the first failure rejects, or, with
   * `{ settled: true }`, failures are `Error` values in their places.
   */
  callMany<T = unknown>(
    name: UndeclaredName<Exports>,
    calls: Iterable<readonly unknown[]>,
    options: CallManyOptions & { readonly settled: true },
  ): Promise<(T | Error)[]>
  callMany<T = unknown>(
    name: UndeclaredName<Exports>,
    calls: Iterable<readonly unknown[]>,
    options?: CallManyOptions,
  ): Promise<T[]>
  callMany<Name extends NameOf<Exports>>(
    name: Name,
    calls: Iterable<ArgumentsOf<Exports[Name]>>,
    options: WithNamed<Exports[Name], CallManyOptions> & { readonly settled: true },
  ): Promise<(ResultOf<Exports[Name]> | Error)[]>
  callMany<Name extends NameOf<Exports>>(
    name: Name,
    calls: Iterable<ArgumentsOf<Exports[Name]>>,
    options?: WithNamed<Exports[Name], CallManyOptions>,
  ): Promise<ResultOf<Exports[Name]>[]>
  callMany(name: string, calls: Iterable<readonly unknown[]>, options?: CallManyOptions): Promise<unknown[]> {
    const promises: Promise<unknown>[] = []
    for (const args of calls) promises.push((this as Bus).call(name, args, options))
    if (options?.settled !== true) return Promise.all(promises)
    const asError = (reason: unknown) =>
      reason instanceof Error ? reason : new Error(String(reason), { cause: reason })
    return Promise.all(promises.map(promise => promise.catch(asError)))
  }

  /** A typed array of zeros in bus memory: it travels without a copy. Give it back with `release`, `using`, or not at all. */
  alloc<T extends TypedArray>(Type: TypedArrayConstructor<T>, length: number): T & Disposable {
    if (this.#closing) throw closedError()
    this.#keepHouse()
    return this.#memory.alloc(Type, length) as T & Disposable
  }

  /** Gives an array in bus memory back at once; see the function of this name. */
  release(array: TypedArray | NDArray): boolean {
    return release(array)
  }

  /** Counters of this isolate and of the host. Differences between two readings tell what went on in between. */
  async stats(): Promise<Stats> {
    const pair = this.#native.stats()
    if (pair === undefined) throw closedError()
    return { self: pair[0], host: pair[1] ?? null }
  }

  /** Keeps the event loop alive until `unref` or `close`, also while nothing is in flight. */
  ref(): this {
    this.#words[words.loop] = loops.always
    this.#native.settled()
    return this
  }

  /** Does not keep the event loop alive, not even for calls in flight. */
  unref(): this {
    this.#words[words.loop] = loops.never
    this.#native.settled()
    return this
  }

  /**
   * Leaves the bus, once what was posted has arrived, and ends the host that was spawned with it. Calls in flight reject. Arrays
   * in bus memory must not be used afterwards.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  // --- sending -----------------------------------------------------------------------------------------------

  #submit(name: string, args: readonly unknown[], options: CallOptions | undefined): number {
    options?.signal?.throwIfAborted()
    const slot = this.#stage(kinds.call, name, args, options)
    this.#inFlight(1)
    this.#native.submit()
    if (this.#words[words.status] !== OK) this.#inFlight(-1)
    this.#sent(slot)
    return slot
  }

  /** Stages a message and says in the control block what it is. The slot of a call. */
  #stage(kind: number, name: string, args: readonly unknown[], options: CallOptions | undefined): number {
    if (this.#closing !== undefined) throw closedError()
    const number = name === this.#lastName ? this.#lastNumber : this.#intern(name)
    if (!Array.isArray(args)) throw new TypeError(`the arguments of '${name}' are an array`)
    let named: KeywordArguments | undefined
    let timeout = 0
    if (options !== undefined) {
      if (options.kwargs !== undefined) named = new KeywordArguments(options.kwargs)
      if (options.timeout !== undefined) timeout = milliseconds(options.timeout)
    }
    this.#encoder.stage(args, named)
    const slot = kind === kinds.call ? this.#take(name) : 0
    this.#words[words.kind] = kind
    this.#words[words.name] = number
    this.#words[words.slot] = slot
    this.#doubles[doubles.timeout] = timeout
    if (this.#chores === undefined) this.#keepHouse()
    this.#idle = 0
    return slot
  }

  #take(name: string): number {
    try {
      return this.#calls.take(name)
    } catch (error) {
      this.#memory.unstage(this.#words[words.firstPayload] as number)
      this.#encoder.done()
      throw error
    }
  }

  /** After a message was sent, or was not: frees what it was staged in. */
  #sent(slot: number): void {
    const status = this.#words[words.status] as number
    const { moved } = this.#encoder
    this.#encoder.done()
    if (status !== OK && status !== statuses.timed_out) {
      if (slot >= 0) this.#calls.giveBack(slot)
      throw this.#error(status, this.#lastName as string)
    }
    if (moved !== undefined) for (const each of moved) release(each.array)
  }

  #intern(name: string): number {
    let number = this.#names.get(name)
    if (number === undefined) {
      number = this.#native.intern(name)
      this.#names.set(name, number)
    }
    this.#lastName = name
    this.#lastNumber = number
    return number
  }

  #watch(slot: number, { timeout, signal }: CallOptions): void {
    if (!(timeout !== undefined && timeout > 0) && signal === undefined) return
    const give = (error: unknown) => {
      const reject = this.#calls.reject[slot]
      this.#calls.forget(slot)
      this.#words[words.slot] = slot
      this.#native.cancel()
      this.#lessInFlight()
      reject?.(error)
    }
    const onAbort = signal && (() => give(signal.reason))
    const name = this.#calls.name[slot] as string
    const timer =
      timeout && timeout <= longestTimer
        ? setTimeout(() => give(this.#tooLate(name, timeout)), timeout)
        : undefined
    timer?.unref()
    if (onAbort) signal.addEventListener('abort', onAbort, { once: true })
    this.#calls.watch[slot] = { timer, signal, onAbort }
  }

  #lessInFlight(): void {
    this.#inFlight(-1)
    this.#native.settled()
  }

  #inFlight(more: number): void {
    this.#words[words.inFlight] = (this.#words[words.inFlight] as number) + more
  }

  #tooLate(name: string, timeout: number): TimeoutError {
    return new TimeoutError(`'${name}' did not answer within ${timeout} ms`)
  }

  // --- answers -----------------------------------------------------------------------------------------------

  /** Settles some of what has arrived. The addon calls it as long as there is more. */
  #drain(): void {
    this.#settleAll(this.#native.drain())
  }

  #settleAll(large: ArrayBuffer | undefined): void {
    this.#decoder.look(large ?? this.#inbox)
    this.#next = 0
    this.#count = this.#words[words.frames] as number
    this.#settleDrained()
  }

  /** A call that is made while an answer is being settled finds the rest of the answers settled first. */
  #settleDrained(): void {
    while (this.#next < this.#count) this.#settle(descriptorWords * this.#next++)
  }

  #settle(at: number): void {
    const descriptors = this.#descriptors
    const slot = descriptors[at + fields.slot] as number
    const kind = descriptors[at + fields.kind]
    const { resolve: resolves } = this.#calls
    const resolve = resolves[slot]
    const payloads = descriptors[at + fields.payloadCount] as number
    if (resolve === undefined && slot !== this.#awaited) {
      if (payloads > 0) this.#decoder.discard(descriptors[at + fields.payloads] as number, payloads)
      this.#calls.giveBack(slot)
      return
    }
    let value: unknown
    let failed = kind !== REPLY
    try {
      if (descriptors[at + fields.cellCount] !== 0) {
        const cells = descriptors[at + fields.cells] as number
        const heap = descriptors[at + fields.heap] as number
        value = this.#decoder.frame(cells, heap, descriptors[at + fields.payloads] as number, payloads)
      }
      if (failed) value = this.#failureOf(descriptors[at + fields.status] as number, slot, value)
    } catch (error) {
      failed = true
      value = error
    }
    if (slot === this.#awaited) {
      this.#awaited = -1
      if (failed) this.#failure = value
      else this.#answer = value
      this.#calls.giveBack(slot)
      return
    }
    const reject = this.#calls.reject[slot]
    if (this.#calls.watch[slot] === undefined) {
      resolves[slot] = undefined
      this.#calls.reject[slot] = undefined
    } else {
      this.#calls.forget(slot)
    }
    this.#calls.giveBack(slot)
    this.#inFlight(-1)
    if (!failed) resolve?.(value)
    else if (value instanceof HostLostError && this.#companion) this.#rejectLost(reject as Settle, slot)
    else reject?.(value)
  }

  #failureOf(status: number, slot: number, value: unknown): IsthmusError {
    const name = this.#calls.name[slot] as string
    if (status === OK) return pythonError(value)
    if (status === statuses.not_exported) {
      const close = (value as { close?: string[] } | undefined)?.close
      return new NotExportedError(name, Array.isArray(close) ? close : [])
    }
    return this.#error(status, name)
  }

  #error(status: number, name: string): IsthmusError {
    if (status !== statuses.lost && status !== statuses.corrupt) return errorOf(status, `'${name}'`)
    return this.#lost(name, this.#companion?.ended)
  }

  #lost(name: string, how: string | undefined): HostLostError {
    return new HostLostError(`'${name}' was not answered: the host ${how ?? 'is gone'}`)
  }

  /** The bus knows of a host's death before the system says how it died. */
  #rejectLost(reject: Settle, slot: number): void {
    const name = this.#calls.name[slot] as string
    void this.#companion?.howItEnded().then(how => reject(this.#lost(name, how)))
  }

  // --- the rest ----------------------------------------------------------------------------------------------

  #proxy(): Readonly<Record<string, ExportedFunction>> {
    const functions: Record<string, ExportedFunction> = Object.create(null)
    return new Proxy(functions, {
      // A promise is told by its `then`: without this, `await py.exports` would call Python.
      get: (known, name) => {
        if (typeof name === 'symbol' || name === 'then') return undefined
        known[name] ??= (...args) => {
          const last = args.at(-1)
          if (!(last instanceof KeywordArguments)) return (this as Bus).call(name, args)
          return (this as Bus).call(name, args.slice(0, -1), { kwargs: last.values })
        }
        return known[name]
      },
      set: () => false,
      defineProperty: () => false,
      deleteProperty: () => false,
    })
  }

  /** Once a second while the connection is used: ends transit leases and gives idle memory back. */
  #keepHouse(): void {
    this.#idle = 0
    if (this.#chores !== undefined) return
    this.#chores = setInterval(() => {
      this.#native.tick()
      if (++this.#idle < idleChores || (this.#words[words.inFlight] as number) > 0) return
      clearInterval(this.#chores)
      this.#chores = undefined
    }, chores)
    this.#chores.unref()
  }

  async #close(): Promise<void> {
    clearInterval(this.#chores)
    for (const slot of [...this.#calls.waiting()]) {
      const reject = this.#calls.reject[slot]
      this.#calls.forget(slot)
      reject?.(closedError())
    }
    this.#words[words.inFlight] = 0
    // What was posted is lost if its reader has not taken it over.
    const until = performance.now() + delivery
    for (let pause = 0; this.#posted && performance.now() < until; pause = 1) {
      this.#native.delivered()
      if (this.#words[words.status] === OK) break
      await new Promise(resolve => setTimeout(resolve, pause))
    }
    this.#native.close()
    await this.#companion?.stop()
  }
}

/** @internal What the addon needs to make a connection. */
export function makeBuffers(): Buffers {
  return {
    control: new ArrayBuffer(sizes.control),
    descriptors: new ArrayBuffer(sizes.descriptorWords * sizes.mostFrames * 4),
    inbox: new ArrayBuffer(sizes.inbox),
    onWake: () => {},
  }
}
