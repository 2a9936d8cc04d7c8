// A connection to a bus: calls, their answers, and the life of both.

import { Access } from './access.js'
import type { Companion } from './answers.js'
import type { ArrowTable } from './arrow.js'
import type { DType, TypedArray, TypedArrayConstructor } from './dtypes.js'
import { closedError } from './errors.js'
import { release } from './leases.js'
import { KeywordArguments } from './marks.js'
import { type Counters, constants, type MemoryStats, type NativeConnection } from './native.js'
import type { NDArray } from './ndarray.js'
import { optionsOf } from './options.js'
import { type Buffers, Peer } from './peer.js'
import { referenceOf, type Target } from './port.js'
import { Queue, type QueueOptions } from './queues.js'
import { type Chain, importModule, type Remote } from './remote.js'
import type { Handler } from './serve.js'
import { Incoming } from './streams.js'
import { Topic } from './topics.js'
import type {
  AnyExports,
  ArgumentsOf,
  CallArguments,
  FunctionsOf,
  ItemOf,
  NameOf,
  ResultOf,
  UndeclaredName,
  WithNamed,
} from './types.js'

const { sizes, loops } = constants
const inspected: unique symbol = Symbol.for('nodejs.util.inspect.custom')
type Inspect = (value: object, options: object) => string
const chores = 1000
const idleChores = 8
const nudgesAt = [1, 3]
const delivery = 1000
const reserved = 'isthmus.'

/** How a call is made. */
export interface CallOptions {
  /** Python's named arguments. */
  readonly kwargs?: Readonly<Record<string, unknown>>
  /** Milliseconds, 0 for no limit; after that the call rejects with `TimeoutError`, and the host no longer begins it. */
  readonly timeout?: number
  /** Aborting rejects the call with the signal's reason, and tells the host that nobody waits for it. */
  readonly signal?: AbortSignal
  /**
   * Where several workers or services export the name, the one with the least to do is called. This keeps to one as long as it
   * takes calls: `true` all such calls of this caller, a text all calls with this key, whoever makes them.
   */
  readonly sticky?: string | boolean
  /** The result stays where it is, also if it is a value that could come here, such as a table: a remote object is what comes. */
  readonly keep?: boolean
}

/** How many calls are made with `callMany`. */
export interface CallManyOptions extends CallOptions {
  /** Failed calls become `Error` values in their places; else the first failure rejects. */
  readonly settled?: boolean
}

/** How a call is made that nobody waits for. */
export type PostOptions = Pick<CallOptions, 'kwargs' | 'sticky'>

const postNames = { kwargs: true, sticky: true } as const
const callNames = { kwargs: true, timeout: true, signal: true, sticky: true, keep: true } as const
const check = {
  call: optionsOf<CallOptions>('call', callNames),
  callSync: optionsOf<CallOptions>('callSync', callNames),
  stream: optionsOf<CallOptions>('stream', callNames),
  callMany: optionsOf<CallManyOptions>('callMany', { ...callNames, settled: true }),
  post: optionsOf<PostOptions>('post', postNames),
}

/** A Python function, as one of `Bus.exports`. Its last argument may be `kwargs({…})`. */
export type ExportedFunction = (...args: readonly unknown[]) => Promise<unknown>

/** What `Bus.stats` tells: counters since the peer joined, one object for each side, and the memory that all share. */
export interface Stats {
  /** This isolate. `calls` are those it has submitted. */
  readonly self: Counters
  /** The host, of several workers one, or null when there is none any more. `calls` are those it has answered. */
  readonly host: Counters | null
  /** Who has what of the bus's memory. */
  readonly memory: MemoryStats
}

function targetOf(name: string | Remote): Target | undefined {
  return typeof name === 'string' ? name : referenceOf(name)
}

function checkName(what: string, name: unknown): void {
  if (typeof name !== 'string' || name === '')
    throw new TypeError(`${what} has a text for a name, and not ${String(name)}`)
}

function noName(): TypeError {
  return new TypeError('the name of an export is a string')
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

  readonly #peer: Peer
  readonly #access: Access
  readonly #companion: Companion | undefined
  #closing: Promise<void> | undefined
  #chores: NodeJS.Timeout | undefined
  #idle = 0

  /** @internal */
  constructor(
    name: string,
    connection: NativeConnection,
    buffers: Buffers,
    companion: Companion | undefined,
    sticky: boolean,
  ) {
    this.name = name
    this.#companion = companion
    this.#peer = new Peer(name, connection, buffers, companion, sticky, () => {
      if (this.#chores === undefined) this.#keepHouse()
      this.#idle = 0
    })
    this.#access = new Access(this.#peer, name)
    this.exports = this.#proxy() as unknown as FunctionsOf<Exports>
  }

  /** Calls a function that came from elsewhere: `f(…)`, with options. */
  call<T = unknown>(remote: Remote, args?: readonly unknown[], options?: CallOptions): Promise<T>
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
  call(name: string | Remote, args: readonly unknown[] = [], options?: CallOptions): Promise<unknown> {
    const target = targetOf(name)
    if (target === undefined) return Promise.reject(noName())
    if (options !== undefined) {
      try {
        check.call(options)
      } catch (error) {
        return Promise.reject(error)
      }
    }
    return this.#peer.call(target, args, options)
  }

  /** Calls a function that came from elsewhere, and blocks this isolate. */
  callSync<T = unknown>(remote: Remote, args?: readonly unknown[], options?: CallOptions): T
  /** Calls, and blocks this isolate until the answer has come. A signal is looked at only before the call. */
  callSync<T = unknown>(name: UndeclaredName<Exports>, args?: readonly unknown[], options?: CallOptions): T
  callSync<Name extends NameOf<Exports>>(
    name: Name,
    ...rest: CallArguments<Exports[Name], CallOptions>
  ): ResultOf<Exports[Name]>
  callSync(name: string | Remote, args: readonly unknown[] = [], options?: CallOptions): unknown {
    const target = targetOf(name)
    if (target === undefined) throw noName()
    check.callSync(options)
    return this.#peer.callSync(target, args, options)
  }

  /** Calls without waiting for anything; the host logs a failure. @throws EncodeError, HostLostError, BusFullError */
  post(name: UndeclaredName<Exports>, args?: readonly unknown[], options?: PostOptions): void
  post<Name extends NameOf<Exports>>(name: Name, ...rest: CallArguments<Exports[Name], PostOptions>): void
  post(name: string, args: readonly unknown[] = [], options?: PostOptions): void {
    check.post(options)
    this.#peer.post(name, args, options)
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
  async callMany(
    name: string,
    calls: Iterable<readonly unknown[]>,
    options?: CallManyOptions,
  ): Promise<unknown[]> {
    check.callMany(options)
    const { settled, ...rest } = options ?? {}
    const each = options && rest
    const promises = [...calls].map(args => (this as Bus).call(name, args, each))
    if (settled !== true) return Promise.all(promises)
    const asError = (reason: unknown) =>
      reason instanceof Error ? reason : new Error(String(reason), { cause: reason })
    return Promise.all(promises.map(promise => promise.catch(asError)))
  }

  /**
   * The items of a Python generator or async generator, or of anything else that an export gives and that can be iterated over. The
   * call is made when the first item is asked for; leaving the loop closes the generator. A `timeout` is for the whole stream.
   */
  stream<T = unknown>(
    name: UndeclaredName<Exports>,
    args?: readonly unknown[],
    options?: CallOptions,
  ): Incoming<T>
  stream<Name extends NameOf<Exports>>(
    name: Name,
    ...rest: CallArguments<Exports[Name], CallOptions>
  ): Incoming<ItemOf<Exports[Name]>>
  stream(name: string, args: readonly unknown[] = [], options?: CallOptions): Incoming {
    check.stream(options)
    return new Incoming(on => this.#peer.stream(name, args, options, on), options?.signal)
  }

  /**
   * A Python module, as a remote object: `const np = await py.import('numpy')`. Without `await` it is the beginning of a chain:
   * `await py.import('math').factorial(5)`. Rejects with Python's PermissionError where the host does not allow the module.
   */
  import(module: string): Chain<Remote> {
    return importModule(this.#peer, String(module))
  }

  /**
   * Lets others call a function under this name: Python, and other isolates. Named arguments come as an object, the last
   * argument; `current` tells who calls. The function may be async, or return anything that can be iterated over for who asks for a stream.
   * Exporting another function under the name replaces the one before.
   *
   * What exports something keeps the event loop alive; `unref` lets go.
   */
  export(name: string, handler: Handler): this {
    if (this.#closing) throw closedError()
    if (typeof handler !== 'function') throw new TypeError(`the export '${name}' is no function`)
    if (String(name).startsWith(reserved))
      throw new TypeError(`names that begin with '${reserved}' are reserved`)
    this.#peer.server.export(String(name), handler)
    return this
  }

  /**
   * A queue of this bus: each message goes to one consumer, and is kept until that acknowledges it. It is there when it is first
   * used; each object that this returns is a consumer of its own.
   *
   * @throws TypeError or RangeError for an option that is none.
   */
  queue<T = unknown>(name: string, options: QueueOptions = {}): Queue<T> {
    checkName('a queue', name)
    return new Queue<T>(this.#access, name, options)
  }

  /** A topic of this bus: each message goes to all who have subscribed by then. */
  topic<T = unknown>(name: string): Topic<T> {
    checkName('a topic', name)
    return new Topic<T>(this.#access, name)
  }

  /**
   * An array of zeros in bus memory: it travels without a copy. Give it back with `release`, `using`, or not at all.
   *
   * A typed array of so many elements; with a shape, or a dtype by its name (`complex128`, `<M8[ns]`, `|S16`, `[["x","<f4"]]` …), an NDArray.
   *
   * @throws BusFullError, which says who has the memory; RangeError for a length, TypeError for a dtype that is none.
   */
  alloc<T extends TypedArray>(Type: TypedArrayConstructor<T>, length: number): T & Disposable
  alloc<T extends TypedArray>(Type: TypedArrayConstructor<T>, shape: readonly number[]): NDArray<T>
  alloc(dtype: DType | (string & {}), shape: number | readonly number[]): NDArray
  alloc(type: TypedArrayConstructor | string, extent: number | readonly number[]): unknown {
    return this.#alloc(type, extent, true)
  }

  /**
   * `alloc` without the zeros: what lies in the array is left over from others of the bus, until it is overwritten. As with
   * `Buffer.allocUnsafe`, for arrays that are filled anyhow: clearing a megabyte takes some 20 µs. Throws what `alloc` throws.
   */
  allocUnsafe<T extends TypedArray>(Type: TypedArrayConstructor<T>, length: number): T & Disposable
  allocUnsafe<T extends TypedArray>(Type: TypedArrayConstructor<T>, shape: readonly number[]): NDArray<T>
  allocUnsafe(dtype: DType | (string & {}), shape: number | readonly number[]): NDArray
  allocUnsafe(type: TypedArrayConstructor | string, extent: number | readonly number[]): unknown {
    return this.#alloc(type, extent, false)
  }

  #alloc(type: TypedArrayConstructor | string, extent: number | readonly number[], clear: boolean): unknown {
    if (this.#closing) throw closedError()
    this.#keepHouse()
    return this.#peer.memory.alloc(type, extent, clear)
  }

  /**
   * `alloc`, while the event loop goes on: another thread finds the pages and clears them. For arrays of many megabytes, whose
   * memory is new: that takes about a millisecond for each. Rejects with what `alloc` throws.
   */
  allocAsync<T extends TypedArray>(Type: TypedArrayConstructor<T>, length: number): Promise<T & Disposable>
  allocAsync<T extends TypedArray>(
    Type: TypedArrayConstructor<T>,
    shape: readonly number[],
  ): Promise<NDArray<T>>
  allocAsync(dtype: DType | (string & {}), shape: number | readonly number[]): Promise<NDArray>
  async allocAsync(
    type: TypedArrayConstructor | string,
    extent: number | readonly number[],
  ): Promise<unknown> {
    if (this.#closing) throw closedError()
    this.#keepHouse()
    return this.#peer.memory.allocAsync(type, extent)
  }

  /** Gives an array in bus memory back at once; see the function of this name. */
  release(array: TypedArray | NDArray | ArrowTable): boolean {
    return release(array)
  }

  /** Counters of this isolate and of the host, and who has what of the memory. Differences between two readings tell what went on in between. */
  async stats(): Promise<Stats> {
    const told = this.#peer.native.stats()
    if (told === undefined) throw closedError()
    const [self, memory, host = null] = told
    return { self, host, memory }
  }

  /** Keeps the event loop alive until `unref` or `close`, also while nothing is in flight. */
  ref(): this {
    this.#peer.loop = loops.always
    return this
  }

  /** Does not keep the event loop alive, not even for calls in flight. */
  unref(): this {
    this.#peer.loop = loops.never
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

  /** What `console.log` shows: the name, and the exports of others as far as they are known here. */
  [inspected](depth: number, options: object, inspect: Inspect): string {
    if (depth < 0) return '[Bus]'
    const exports = this.#known()
    return `Bus ${inspect({ name: this.name, ...(exports ? { exports } : { closed: true }) }, options)}`
  }

  // --- the rest ----------------------------------------------------------------------------------------------

  /** What others export, as far as it is known here; undefined once it was closed. */
  #known(): string[] | undefined {
    const names = this.#peer.native.exports()
    return names && [...new Set(names.filter(name => !name.startsWith(reserved)))].sort()
  }

  #proxy(): Readonly<Record<string, ExportedFunction>> {
    const shown = (depth: number, options: object, inspect: Inspect) => {
      if (depth < 0) return '[Exports]'
      const names = this.#known()
      return `Exports of '${this.name}' ${names ? inspect(names, options) : '(closed)'}`
    }
    const functions: Record<string, ExportedFunction> = Object.create(null)
    Object.defineProperty(functions, inspected, { value: shown, configurable: true })
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
      this.#peer.native.tick()
      if (nudgesAt.includes(this.#idle)) this.#peer.native.nudge()
      if (++this.#idle < idleChores || this.#peer.inFlight > 0) return
      clearInterval(this.#chores)
      this.#chores = undefined
    }, chores)
    this.#chores.unref()
  }

  async #close(): Promise<void> {
    clearInterval(this.#chores)
    this.#peer.stop()
    const until = performance.now() + delivery
    for (let pause = 0; performance.now() < until && !this.#peer.isDelivered; pause = 1) {
      await new Promise(resolve => setTimeout(resolve, pause))
    }
    this.#peer.native.close()
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
