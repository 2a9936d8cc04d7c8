// What keeps the blocks that views of bus memory lie in.

import type { Memory } from './arrays.js'
import type { TypedArray } from './dtypes.js'
import type { NDArray } from './ndarray.js'
import { type ArrowTable, buffersOf, tableIn } from './tables.js'

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

const leaseOf = Symbol('lease')
const partOf = Symbol('part of')
interface Leased {
  [leaseOf]?: Lease | undefined
  [partOf]?: Leased
}

/** Whether a view, or the one that it is a part of, was given back. Its block may still be in use for a while. */
export function isReleased(view: object): boolean {
  let whole: Leased = view
  while (whole[partOf] !== undefined) whole = whole[partOf]
  return leaseOf in whole && whole[leaseOf] === undefined
}

const collected = new FinalizationRegistry<Lease>(lease => lease.drop())

const hidden = { value: undefined as unknown, writable: true, configurable: true, enumerable: false }
function define(view: TypedArray, key: symbol, value: unknown): void {
  hidden.value = value
  Object.defineProperty(view, key, hidden)
  hidden.value = undefined
}

// A part of an array would not keep the array from being collected: both only hold the buffer, which is one for all.
const trackedSubarray = {
  value: function subarray(this: TypedArray, begin?: number, end?: number): TypedArray {
    const part = Object.getPrototypeOf(this).subarray.call(this, begin, end) as TypedArray
    Object.defineProperty(part, 'subarray', trackedSubarray)
    define(part, partOf, this)
    return part
  },
  writable: true,
  configurable: true,
  enumerable: false,
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
  if (table === undefined) return releaseView('data' in array ? array.data : (array as TypedArray))
  let released = false
  for (const view of new Set(buffersOf(table))) released = releaseView(view) || released
  return released
}

/** Lets `using` release it. */
export function releasable<T extends object>(table: T): T {
  return Object.defineProperty(table, Symbol.dispose, dispose)
}

function releaseView(view: TypedArray): boolean {
  const lease = (view as Leased)[leaseOf]
  if (lease === undefined) return false
  define(view, leaseOf, undefined)
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
