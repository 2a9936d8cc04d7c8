// What keeps the blocks that views of bus memory lie in.

import type { Memory } from './arrays.js'
import { type ArrowTable, buffersOf, tableIn } from './arrow.js'
import type { TypedArray } from './dtypes.js'
import { IsthmusError } from './errors.js'
import type { NDArray } from './ndarray.js'

/** One use of a block, shared by the views that came with it. */
export class Lease {
  #views = 0
  #memory: Memory | undefined

  constructor(
    memory: Memory,
    readonly block: number,
    readonly generation: number,
  ) {
    this.#memory = memory
  }

  get memory(): Memory | undefined {
    return this.#memory
  }

  hold(): void {
    this.#views++
  }

  /** One view less; the last one gives the use back. */
  drop(): void {
    if (--this.#views > 0 || this.#memory === undefined) return
    this.#memory.giveBack(this)
    this.#memory = undefined
  }
}

/** How the use of a view ended. */
export type End = 'released' | 'moved'

const leaseOf = Symbol('lease')
const partOf = Symbol('part of')
interface Leased {
  [leaseOf]?: Lease | End
  [partOf]?: Leased
}

function wholeOf(view: object): Leased {
  let whole: Leased = view
  while (whole[partOf] !== undefined) whole = whole[partOf]
  return whole
}

/** How the use of a view, or of the one that it is a part of, ended, if it did. Its block may still be in use for a while. */
export function endOf(view: object): End | undefined {
  const lease = wholeOf(view)[leaseOf]
  return typeof lease === 'string' ? lease : undefined
}

/** @throws IsthmusError when a view has ended. */
export function checkInUse(view: object): void {
  const end = endOf(view)
  if (end === undefined) return
  const how = end === 'moved' ? "was moved: it is the callee's" : 'was released already'
  throw new IsthmusError(
    'ERR_ISTHMUS_RELEASED',
    `the array ${how}; what is needed here has to be copied before`,
  )
}

const collected = new FinalizationRegistry<Lease>(lease => lease.drop())

const hidden = { value: undefined as unknown, writable: true, configurable: true, enumerable: false }
function define(view: TypedArray, key: symbol, value: unknown): void {
  hidden.value = value
  Object.defineProperty(view, key, hidden)
  hidden.value = undefined
}

const trackedSubarray = {
  value: function subarray(this: TypedArray, begin?: number, end?: number): TypedArray {
    checkInUse(this)
    const part = Object.getPrototypeOf(this).subarray.call(this, begin, end) as TypedArray
    makePart(part, this)
    return part
  },
  writable: true,
  configurable: true,
  enumerable: false,
}

/**
 * Has a view of the same buffer end when another one does, and keep that one from being collected: both only hold the buffer, which is
 * one for all.
 */
export function makePart(view: TypedArray, of: TypedArray): void {
  define(view, partOf, of)
  Object.defineProperty(view, 'subarray', trackedSubarray)
}

const dispose = {
  value: function (this: TypedArray | ArrowTable): void {
    release(this)
  },
  writable: true,
  configurable: true,
  enumerable: false,
}

/**
 * Gives an array in bus memory, or the arrays of a Table of apache-arrow, back before the garbage collector does. They must not be used
 * afterwards: their memory will hold something else. True if there was something to give back; a second release is harmless.
 */
export function release(array: TypedArray | NDArray | ArrowTable): boolean {
  const table = tableIn(array)
  if (table === undefined) return end(array as TypedArray | NDArray, 'released')
  // Of a table that came over the bus, also what its columns were cut from.
  const came = Object.hasOwn(table, Symbol.dispose)
  let released = false
  for (const view of new Set(buffersOf(table)))
    released = end(came ? (wholeOf(view) as TypedArray) : view, 'released') || released
  return released
}

/** Lets `using` release it. */
export function releasable<T extends object>(table: T): T {
  return Object.defineProperty(table, Symbol.dispose, dispose)
}

export function end(array: TypedArray | NDArray, how: End): boolean {
  const view: TypedArray = 'data' in array ? array.data : array
  const lease = (view as Leased)[leaseOf]
  if (!(lease instanceof Lease)) return false
  define(view, leaseOf, how)
  collected.unregister(view)
  lease.drop()
  return true
}

/** Has a view hold a lease, until it is released or collected. */
export function holdBy(view: TypedArray, lease: Lease): void {
  lease.hold()
  define(view, leaseOf, lease)
  Object.defineProperty(view, 'subarray', trackedSubarray)
  Object.defineProperty(view, Symbol.dispose, dispose)
  collected.register(view, lease, view)
}
