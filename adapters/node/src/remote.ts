// Remote objects as JavaScript sees them.

import { inspect } from 'node:util'
import { tableIn } from './arrow.js'
import { Access, accessKey, accessOf, lent, type Root, unnamed } from './chain.js'
import { originOf, PythonError } from './errors.js'
import { KeywordArguments } from './marks.js'
import { constants } from './native.js'
import { type Port, type PortOptions, type Reference, referenceKey, referenceOf, type Step } from './port.js'
import { Incoming } from './streams.js'

// biome-ignore lint/suspicious/noExplicitAny: what a remote object leads to is not known
type Any = any

/**
 * An object that stays in the other language. Its attributes are properties, its items have numbers, and it can be called:
 * `np.arange(15).reshape(3, 5)`. Each access makes a `Chain`, and a chain is one message.
 *
 * Only `release` and the symbols are not the object's own; an attribute of that name is `r.__getattribute__('release')`.
 * Assign with `r.__setattr__(name, value)` and `r.__setitem__(key, value)`.
 */
export interface Remote extends AsyncIterable<Any>, Disposable, AsyncDisposable {
  (...args: readonly unknown[]): Chain
  /** Attributes and items. */
  readonly [access: string | number]: Any
  /** Gives the object back now, rather than when the garbage collector finds it. */
  release(): void
}

/**
 * Accesses of a remote object that are not evaluated yet: `await` sends them as one message, with one round trip. A chain that
 * ends in a call is sent in any case, after the current microtask; the arguments are read then.
 *
 * `then`, `catch` and `finally` are those of a promise. A chain can be an argument of another chain's call: its result is passed on
 * without coming here. A result is used by one chain that goes on from it; to use it again, `keep` it.
 */
export interface Chain<T = Any> extends Remote, Pick<Promise<T>, 'then' | 'catch' | 'finally'> {}

const promised = ['then', 'catch', 'finally'] as const
const index = /^(0|-?[1-9]\d*)$/

/** A proxy for an object of another peer. */
export function makeProxy(reference: Reference): object {
  const root: Root & { proxy: object | undefined } = { subject: reference, proxy: undefined }
  const isCallable = (reference.flags & constants.references.callable) !== 0
  root.proxy = new Proxy(isCallable ? callable : plain, new RemoteHandler(reference, root))
  return root.proxy
}

/** A module of the host. */
export function importModule(port: Port, name: string): Chain<Remote> {
  return makeChain(new Access(port, { subject: name, proxy: undefined }, undefined))
}

function makeChain(access: Access): Chain {
  return new Proxy(chained, new ChainHandler(access)) as Chain
}

/** What proxies hide: it says whether they can be called, and what `console.log` shows. */
function hidden<T extends object>(target: T, shown: string): T {
  return Object.defineProperty(target, inspect.custom, { value: () => shown, configurable: true })
}

const plain = hidden({}, '[Remote]')
const callable = hidden(() => {}, '[Remote]')
const chained = hidden(() => {}, '[Chain]')

abstract class Handler implements ProxyHandler<object> {
  abstract readonly port: Port
  abstract readonly from: Access | Root
  /** What is ours under this name, rather than the object's own. */
  abstract own(name: string): unknown
  abstract iterate(): AsyncIterator<unknown>
  abstract sync(...steps: Step[]): unknown
  abstract release(): void
  abstract leave(): Promise<void>

  get(_: object, key: string | symbol): unknown {
    if (typeof key === 'symbol') return this.symbol(key)
    if (key === 'release') return () => this.release()
    // JSON.stringify would call it
    if (key === 'toJSON') return undefined
    if (promised.includes(key as 'then')) {
      const own = this.own(key)
      if (own !== undefined || key === 'then') return own
    }
    return this.#go(index.test(key) ? ['item', numberOf(key)] : ['get', key])
  }

  apply(_: object, __: unknown, args: unknown[]): Chain {
    const last = args.at(-1)
    if (!(last instanceof KeywordArguments)) return this.#go(['call', args, unnamed])
    return this.#go(['call', args.slice(0, -1), last.values])
  }

  set(_: object, key: string | symbol, value: unknown): never {
    const name = String(key)
    const [method, shown] = index.test(name) ? ['__setitem__', name] : ['__setattr__', `'${name}'`]
    const what = inspect(value, { depth: 0, breakLength: Number.POSITIVE_INFINITY })
    throw new TypeError(`a remote object can't be assigned to: await r.${method}(${shown}, ${what})`)
  }

  deleteProperty(_: object, key: string | symbol): never {
    const name = String(key)
    const [method, shown] = index.test(name) ? ['__delitem__', name] : ['__delattr__', `'${name}'`]
    throw new TypeError(`nothing of a remote object can be deleted: await r.${method}(${shown})`)
  }

  defineProperty(_: object, key: string | symbol): never {
    return this.set(_, key, undefined)
  }

  has(_: object, key: string | symbol): boolean {
    return typeof key === 'symbol' ? this.symbol(key) !== undefined : key === 'release'
  }

  ownKeys(): string[] {
    return []
  }

  getOwnPropertyDescriptor(): undefined {
    return undefined
  }

  #go(step: Step): Chain {
    return makeChain(new Access(this.port, this.from, step))
  }

  symbol(key: symbol): unknown {
    switch (key) {
      case Symbol.toPrimitive:
        return (hint: string) => {
          if (hint === 'number') return this.sync(['get', '__float__'], ['call', [], {}])
          return this.sync(['str'])
        }
      case Symbol.asyncIterator:
        return () => this.iterate()
      case Symbol.dispose:
        return () => this.release()
      case Symbol.asyncDispose:
        return () => this.leave()
      case Symbol.toStringTag:
        return 'Remote'
      default:
        return undefined
    }
  }
}

// What `enter` has entered: by the object that it gave, the context manager.
const entered = new WeakMap<object, Remote>()

class RemoteHandler extends Handler {
  constructor(
    readonly reference: Reference,
    readonly from: Root,
  ) {
    super()
  }

  get port(): Port {
    return this.reference.port
  }

  override symbol(key: symbol): unknown {
    return key === referenceKey ? this.reference : super.symbol(key)
  }

  own(): undefined {
    return undefined
  }

  iterate(): AsyncIterator<unknown> {
    const { reference } = this
    return new Incoming(on => reference.port.stream({ subject: reference, steps: [] }, [], lent, on))
  }

  sync(...steps: Step[]): unknown {
    return this.port.callSync({ subject: this.reference, steps }, [], lent)
  }

  release(): void {
    this.port.giveBack(this.reference)
  }

  async leave(): Promise<void> {
    const proxy = this.from.proxy as object
    const manager = entered.get(proxy)
    entered.delete(proxy)
    try {
      if (manager !== undefined) await exit(manager, undefined)
    } finally {
      this.release()
      manager?.release()
    }
  }
}

class ChainHandler extends Handler {
  constructor(readonly from: Access) {
    super()
  }

  get port(): Port {
    return this.from.port
  }

  override symbol(key: symbol): unknown {
    return key === accessKey ? this.from : super.symbol(key)
  }

  own(name: 'then' | 'catch' | 'finally'): unknown {
    return (...args: never[]) => {
      const value = this.from.value() as Promise<unknown>
      return (value[name] as (...args: never[]) => unknown).apply(value, args)
    }
  }

  iterate(): AsyncIterator<unknown> {
    const access = this.from.use()
    return new Incoming(on => access.open(undefined, on))
  }

  sync(...steps: Step[]): unknown {
    return this.from.sync(steps)
  }

  release(): void {
    this.from.release()
  }

  async leave(): Promise<void> {
    this.release()
  }
}

function numberOf(key: string): number | bigint {
  const number = Number(key)
  return Number.isSafeInteger(number) ? number : BigInt(key)
}

/** Whether a value is an object of the other language (and not a chain, which has to be awaited first). */
export function isRemote(value: unknown): value is Remote {
  return referenceOf(value) !== undefined
}

/**
 * Evaluates a chain and holds its result where it is, also if it is a value that could come here: an array, a list, a number.
 * `const a = await keep(np.arange(15))` is the array in Python, not a copy of its numbers.
 */
export async function keep(chain: Chain | Remote): Promise<Remote> {
  const access = accessOf(chain)
  return (access === undefined ? chain : await access.use().keep()) as Remote
}

/**
 * The rows of a table of the other language, a DataFrame for one, as a Table of apache-arrow: `await toTable(df.query('x > 1'))`. Their
 * columns lie in bus memory.
 *
 * @throws TypeError when it is no table.
 */
export async function toTable<Table = Any>(remote: Chain | Remote): Promise<Table> {
  const held = await keep(remote)
  const reference = referenceOf(held)
  try {
    const value = reference && (await reference.port.call({ subject: reference, steps: [] }, []))
    if (typeof value === 'object' && value !== null && tableIn(value)) return value as Table
    throw new TypeError('the remote object is no table that Arrow could express')
  } finally {
    if (held !== remote && reference) reference.port.giveBack(reference)
  }
}

/**
 * Enters a Python context manager: what its `__enter__` (or `__aenter__`) gives. Leaving is by `Symbol.asyncDispose`:
 * `await using file = await enter(io.open('x'))`.
 */
export async function enter(manager: Chain | Remote): Promise<Remote> {
  const { held, inside } = await enterWith(manager, { keep: true })
  entered.set(inside as object, held)
  return inside as Remote
}

async function enterWith(
  manager: Chain | Remote,
  options: PortOptions,
): Promise<{ held: Remote; inside: unknown }> {
  const held = await keep(manager)
  const reference = referenceOf(held)
  if (reference === undefined) throw new TypeError('only a remote object can be entered')
  const inside = await reference.port.call({ subject: reference, steps: [['enter']] }, [], options)
  return { held, inside }
}

/** `with manager as inside:` in Python: enters it, has `run` work, and leaves it, also when `run` fails. */
export async function withContext<T>(
  manager: Chain | Remote,
  run: (inside: Any) => T | Promise<T>,
): Promise<T> {
  const { held, inside } = await enterWith(manager, lent)
  let result: T
  try {
    result = await run(inside)
  } catch (error) {
    if (await exit(held, error)) return undefined as T
    throw error
  }
  await exit(held, undefined)
  return result
}

/** Leaves a context manager; whether it has taken care of the error. */
async function exit(manager: Remote, error: unknown): Promise<boolean> {
  const reference = referenceOf(manager) as Reference
  const step: Step = error === undefined ? ['exit'] : ['exit', describe(error)]
  return (await reference.port.call({ subject: reference, steps: [step] }, [])) === true
}

/** What a context manager is told of the error that it is left with: Python's own exception, where that is still held. */
function describe(error: unknown): object {
  const origin = originOf(error)
  if (origin !== undefined && referenceOf(origin)?.released === false) return origin
  if (error instanceof PythonError) {
    const { type, module, message, traceback } = error
    return { type, module, message, traceback, language: 'python' }
  }
  const { name, message, stack } = error instanceof Error ? error : new Error(String(error))
  return { type: name, message, traceback: stack ?? '', language: 'javascript' }
}
