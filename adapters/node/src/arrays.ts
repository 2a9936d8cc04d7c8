// Arrays in bus memory: views of one SharedArrayBuffer.

import {
  type Elements,
  elementsOfClass,
  elementsOfView,
  type TypedArray,
  type TypedArrayConstructor,
} from './dtypes.js'
import { BusFullError, closedError, errorOf, type IsthmusError } from './errors.js'
import { holdBy, Lease } from './leases.js'
import { constants, type NativeConnection } from './native.js'
import { NDArray } from './ndarray.js'
import { itemOf } from './records.js'

const { statuses, words, doubles } = constants
const ranOut = [statuses.no_memory, statuses.over_quota, statuses.too_large]

/** An argument that becomes the callee's; see `move`. */
export class Moved<T extends TypedArray | NDArray = TypedArray | NDArray> {
  constructor(readonly array: T) {}
}

/**
 * Hands an array over for good: Python may write to it. One in bus memory is released here when the call is submitted, and must
 * not be used afterwards: sending it, its parts and the methods of NDArray throw then, reading elements by index gives whatever
 * is there. Any other array is copied, as ever.
 */
export function move<T extends TypedArray | NDArray>(array: T): Moved<T> {
  const view = array instanceof NDArray ? array.data : array
  if (elementsOfView(view) === undefined) throw new TypeError('only typed arrays and NDArrays can be moved')
  return new Moved(array)
}

function checkLength(length: number): void {
  if (!Number.isSafeInteger(length) || length < 0) throw new RangeError(`${length} is no length of an array`)
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

  /** Zeros: a typed array of a length, or with a shape, or where the dtype has no typed array of its own, an NDArray. */
  alloc(type: TypedArrayConstructor | string, extent: number | readonly number[]): TypedArray | NDArray {
    if (typeof type !== 'string') {
      if (elementsOfClass(type) === undefined) throw new TypeError(`${type?.name} is no typed array`)
      if (typeof extent === 'number') return this.#alloc(type, extent)
    }
    const shape = typeof extent === 'number' ? [extent] : extent
    const { name, Type, per } = typeof type === 'string' ? itemOf(type) : (elementsOfClass(type) as Elements)
    for (const each of shape) checkLength(each)
    const numbers = shape.reduce((product, each) => product * each, per)
    return new NDArray(this.#alloc(Type, numbers), shape, name)
  }

  #alloc<T extends TypedArray>(Type: TypedArrayConstructor<T>, length: number): T {
    const bytes = length * Type.BYTES_PER_ELEMENT
    checkLength(length)
    const buffer = this.buffer
    if (buffer === undefined) throw closedError()
    if (bytes === 0) return new Type(buffer, 0, 0)
    this.#doubles[doubles.bytes] = bytes
    this.#native.allocate()
    if (this.#words[words.status] !== statuses.ok) throw this.#refused(`a ${Type.name} of ${length} elements`)
    const offset = this.#doubles[doubles.offset] as number
    const lease = new Lease(this, this.#words[words.block] as number, this.#words[words.generation] as number)
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
    holdBy(view, lease)
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
    if (this.#words[words.status] !== statuses.ok) {
      this.#doubles[doubles.bytes] = bytes.byteLength
      throw this.#refused('the copy of an array')
    }
    return this.#words[words.block] as number
  }

  /** For what the control block says about an allocation. */
  #refused(subject: string): IsthmusError {
    const status = this.#words[words.status] as number
    if (!ranOut.includes(status)) return errorOf(status, subject)
    return new BusFullError(`${subject}: ${this.#native.shortage()}`)
  }

  /** For elements that no view of the buffer can show, as they are not aligned. */
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
