// Arrays in bus memory: views of one SharedArrayBuffer, and the leases that keep their blocks.

import { BusFullError, closedError, errorOf } from './errors.js'
import { constants, type NativeConnection, type NativeDType } from './native.js'

/** Any typed array. */
export type TypedArray =
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array

/** The constructor of a typed array. */
export interface TypedArrayConstructor<T extends TypedArray = TypedArray> {
  new (buffer: ArrayBufferLike, byteOffset?: number, length?: number): T
  readonly name: string
  readonly BYTES_PER_ELEMENT: number
}

/** The name of an element type, as numpy has it. */
export type DType =
  | 'bool'
  | 'int8'
  | 'uint8'
  | 'int16'
  | 'uint16'
  | 'int32'
  | 'uint32'
  | 'int64'
  | 'uint64'
  | 'float16'
  | 'float32'
  | 'float64'
  | 'complex64'
  | 'complex128'

/** How the elements of one dtype are held in JavaScript. */
export interface Elements {
  readonly code: number
  readonly name: DType
  readonly Type: TypedArrayConstructor
  /** Numbers of `Type` for one element: 2 for complex ones. */
  readonly per: number
  /** Whether `Type` tells the dtype, so that a 1-D array needs no NDArray around it. */
  readonly native: boolean
}

const { dtypes, statuses, words, doubles } = constants

const Float16 = (globalThis as { Float16Array?: TypedArrayConstructor }).Float16Array

const table: readonly [NativeDType, DType, TypedArrayConstructor, number, boolean][] = [
  ['boolean', 'bool', Uint8Array, 1, false],
  ['int8', 'int8', Int8Array, 1, true],
  ['uint8', 'uint8', Uint8Array, 1, true],
  ['int16', 'int16', Int16Array, 1, true],
  ['uint16', 'uint16', Uint16Array, 1, true],
  ['int32', 'int32', Int32Array, 1, true],
  ['uint32', 'uint32', Uint32Array, 1, true],
  ['int64', 'int64', BigInt64Array, 1, true],
  ['uint64', 'uint64', BigUint64Array, 1, true],
  ['float16', 'float16', Float16 ?? Uint16Array, 1, Float16 !== undefined],
  ['float32', 'float32', Float32Array, 1, true],
  ['float64', 'float64', Float64Array, 1, true],
  ['complex64', 'complex64', Float32Array, 2, false],
  ['complex128', 'complex128', Float64Array, 2, false],
  ['clamped8', 'uint8', Uint8ClampedArray, 1, true],
]

/** By the native number of the dtype. */
export const elementsOf: readonly (Elements | undefined)[] = (() => {
  const byCode: Elements[] = []
  for (const [key, name, Type, per, own] of table) {
    byCode[dtypes[key]] = { code: dtypes[key], name, Type, per, native: own }
  }
  return byCode
})()

/** By the name of the typed array's class. */
const byClass = new Map(table.filter(row => row[4]).map(row => [row[2].name, elementsOf[dtypes[row[0]]]]))
const byName = new Map(
  table.filter(row => row[0] !== 'clamped8').map(row => [row[1] as string, elementsOf[dtypes[row[0]]]]),
)

const tagOf = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype), Symbol.toStringTag)
  ?.get as (this: unknown) => string | undefined

/** How a typed array's elements travel; undefined for what is no typed array of a known kind. */
export function elementsOfView(view: unknown): Elements | undefined {
  return byClass.get(tagOf.call(view) ?? '')
}

/** An n-dimensional array, and any array whose element type has no typed array of its own (bool, complex, float16). */
export class NDArray<T extends TypedArray = TypedArray> {
  /** The elements; two numbers for each complex one. */
  readonly data: T
  /** The length of each dimension. */
  readonly shape: readonly number[]
  readonly dtype: DType
  /** `C`: the last dimension varies fastest; `F`: the first. */
  readonly order: 'C' | 'F'

  /** @throws TypeError when the shape does not fit the data, or the dtype does not fit the typed array. */
  constructor(data: T, shape: readonly number[], dtype?: DType, order: 'C' | 'F' = 'C') {
    const own = elementsOfView(data)
    if (own === undefined) throw new TypeError('the data of an NDArray is a typed array')
    const elements = dtype === undefined ? own : byName.get(dtype)
    if (elements === undefined) throw new TypeError(`'${dtype}' is no dtype`)
    if (elements.Type !== own.Type && !(elements.code === dtypes.uint8 && own.code === dtypes.clamped8)) {
      throw new TypeError(
        `elements of ${elements.name} lie in a ${elements.Type.name}, not in a ${own.Type.name}`,
      )
    }
    let count = elements.per
    for (const extent of shape) {
      if (!Number.isSafeInteger(extent) || extent < 0) throw new TypeError(`${extent} is no extent`)
      count *= extent
    }
    if (count !== data.length) {
      throw new TypeError(`the shape [${shape.join(', ')}] has ${count} numbers, the data ${data.length}`)
    }
    this.data = data
    this.shape = Object.freeze([...shape])
    this.dtype = elements.name
    this.order = order
  }

  /** The element at these indices; a complex one as `{ re, im }`. */
  at(...indices: number[]): number | bigint | boolean | { re: number; im: number } {
    if (indices.length !== this.shape.length) {
      throw new RangeError(`${this.shape.length} indices are needed, ${indices.length} were given`)
    }
    let position = 0
    for (let i = 0; i < indices.length; ++i) {
      const dimension = this.order === 'C' ? i : indices.length - 1 - i
      const extent = this.shape[dimension] as number
      const given = indices[dimension] as number
      const index = given < 0 ? given + extent : given
      if (!(index >= 0 && index < extent)) throw new RangeError(`${given} is outside of 0 to ${extent - 1}`)
      position = position * extent + index
    }
    if (this.dtype === 'complex64' || this.dtype === 'complex128') {
      return { re: this.data[2 * position] as number, im: this.data[2 * position + 1] as number }
    }
    const value = this.data[position] as number | bigint
    return this.dtype === 'bool' ? value !== 0 : value
  }

  /** Gives the block back, if it lies in bus memory. */
  [Symbol.dispose](): void {
    release(this)
  }
}

export function elementsOfArray(array: NDArray): Elements {
  const own = elementsOfView(array.data) as Elements
  return array.dtype === own.name ? own : (byName.get(array.dtype) as Elements)
}

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
  value: function (this: TypedArray): void {
    release(this)
  },
  writable: true,
  configurable: true,
  enumerable: false,
}

/**
 * Gives an array in bus memory back before the garbage collector does. The array must not be used afterwards: its memory
 * will hold something else. True if there was something to give back; a second release is harmless.
 */
export function release(array: TypedArray | NDArray): boolean {
  const view = array instanceof NDArray ? array.data : array
  const lease = (view as Leased)[leaseOf]
  if (lease === undefined) return false
  define(view, leaseOf, undefined)
  collected.unregister(view)
  lease.drop()
  return true
}

/** An argument that becomes the callee's; see `move`. */
export class Moved<T extends TypedArray | NDArray = TypedArray | NDArray> {
  constructor(readonly array: T) {}
}

/**
 * Hands an array over for good: Python may write to it. One in bus memory is released here when the call is submitted, and must
 * not be used afterwards; any other is copied, as ever.
 */
export function move<T extends TypedArray | NDArray>(array: T): Moved<T> {
  const view = array instanceof NDArray ? array.data : array
  if (elementsOfView(view) === undefined) throw new TypeError('only typed arrays and NDArrays can be moved')
  return new Moved(array)
}

/** The arena of one bus, as one isolate sees it. */
export class Memory {
  readonly #native: NativeConnection
  readonly #words: Int32Array
  readonly #doubles: Float64Array
  #buffer: SharedArrayBuffer | undefined

  constructor(native: NativeConnection, control: ArrayBuffer) {
    this.#native = native
    this.#words = new Int32Array(control)
    this.#doubles = new Float64Array(control)
  }

  /** One for all arrays, mapped when the first one is made. */
  get buffer(): SharedArrayBuffer {
    this.#buffer ??= this.#native.memory()
    return this.#buffer
  }

  has(buffer: ArrayBufferLike): boolean {
    return buffer === this.#buffer
  }

  alloc<T extends TypedArray>(Type: TypedArrayConstructor<T>, length: number): T {
    const bytes = length * Type.BYTES_PER_ELEMENT
    if (!Number.isSafeInteger(length) || length < 0)
      throw new RangeError(`${length} is no length of an array`)
    const buffer = this.buffer
    if (buffer === undefined) throw closedError()
    if (bytes === 0) return new Type(buffer, 0, 0)
    this.#doubles[doubles.bytes] = bytes
    this.#native.allocate()
    const status = this.#words[words.status] as number
    if (status !== statuses.ok) throw errorOf(status, `${bytes} bytes for a ${Type.name}`)
    const offset = this.#doubles[doubles.offset] as number
    const lease = new Lease(this, this.#words[words.block] as number, this.#words[words.generation] as number)
    if (offset + bytes > buffer.byteLength) {
      lease.hold()
      lease.drop()
      throw new BusFullError(
        `${bytes} bytes for a ${Type.name}: this engine can't see that far into the bus's memory`,
      )
    }
    return this.view(Type, offset, length, lease)
  }

  /** A view that holds a lease, until it is released or collected. */
  view<T extends TypedArray>(
    Type: TypedArrayConstructor<T>,
    offset: number,
    length: number,
    lease: Lease,
  ): T {
    const view = new Type(this.buffer, offset, length)
    lease.hold()
    define(view, leaseOf, lease)
    Object.defineProperty(view, 'subarray', trackedSubarray)
    Object.defineProperty(view, Symbol.dispose, dispose)
    collected.register(view, lease, view)
    return view
  }

  giveBack(lease: Lease): void {
    this.#words[words.block] = lease.block
    this.#words[words.generation] = lease.generation
    this.#native.release()
  }

  /** Stages a piece of bus memory; the index of the payload, or -1 when this isolate has released it. */
  stage(offset: number, bytes: number): number {
    this.#doubles[doubles.offset] = offset
    this.#doubles[doubles.bytes] = bytes
    this.#native.stage()
    return this.#words[words.status] === statuses.ok ? (this.#words[words.block] as number) : -1
  }

  /** Stages a copy; the index of the payload. Throws BusFullError. */
  stageCopy(bytes: Uint8Array): number {
    this.#native.stageCopy(bytes)
    const status = this.#words[words.status] as number
    if (status !== statuses.ok) throw errorOf(status, `${bytes.byteLength} bytes of an array`)
    return this.#words[words.block] as number
  }

  /** For elements that no view of the buffer can show: not aligned, or beyond what this engine maps. */
  copy(offset: number, bytes: number): ArrayBuffer {
    this.#doubles[doubles.offset] = offset
    this.#doubles[doubles.bytes] = bytes
    return this.#native.copyOut()
  }

  unstage(first: number): void {
    this.#words[words.firstPayload] = first
    this.#native.unstage()
  }
}
