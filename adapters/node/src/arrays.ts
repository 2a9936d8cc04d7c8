// Arrays in bus memory: views of one SharedArrayBuffer.

import {
  elementsOfClass,
  elementsOfView,
  sizeOf,
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

/** What an array is made of, and how it is shown. */
function planned(
  type: TypedArrayConstructor | string,
  extent: number | readonly number[],
): { Type: TypedArrayConstructor; length: number; shown: (data: TypedArray) => TypedArray | NDArray } {
  const elements = typeof type === 'string' ? itemOf(type) : elementsOfClass(type)
  if (elements === undefined) throw new TypeError(`${(type as { name?: string })?.name} is no typed array`)
  const shape = typeof extent === 'number' ? [extent] : extent
  for (const each of shape) checkLength(each)
  const { name, Type, per } = elements
  const isFlat = typeof type !== 'string' && typeof extent === 'number'
  return {
    Type: typeof type === 'string' ? Type : type,
    length: sizeOf(shape) * per,
    shown: data => (isFlat ? data : new NDArray(data, shape, name)),
  }
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

  /** A typed array of a length, or with a shape, or where the dtype has no typed array of its own, an NDArray. */
  alloc(
    type: TypedArrayConstructor | string,
    extent: number | readonly number[],
    clear: boolean,
  ): TypedArray | NDArray {
    const { Type, length, shown } = planned(type, extent)
    return shown(this.#alloc(Type, length, clear))
  }

  /** Zeros, while the isolate's thread goes on: another one finds the pages. */
  async allocAsync(
    type: TypedArrayConstructor | string,
    extent: number | readonly number[],
  ): Promise<TypedArray | NDArray> {
    const { Type, length, shown } = planned(type, extent)
    const bytes = length * Type.BYTES_PER_ELEMENT
    if (bytes === 0) return shown(this.#alloc(Type, 0, true))
    const buffer = this.buffer
    if (buffer === undefined) throw closedError()
    this.#doubles[doubles.bytes] = bytes
    const [status, block, generation, offset] = await this.#native.allocateAhead(new Uint8Array(buffer, 0, 1))
    if (status === statuses.ok)
      return shown(this.view(Type, offset, length, new Lease(this, block, generation)))
    this.#words[words.status] = status
    this.#doubles[doubles.bytes] = bytes
    throw this.#refused(`a ${Type.name} of ${length} elements`)
  }

  #alloc<T extends TypedArray>(Type: TypedArrayConstructor<T>, length: number, clear: boolean): T {
    const bytes = length * Type.BYTES_PER_ELEMENT
    checkLength(length)
    const buffer = this.buffer
    if (buffer === undefined) throw closedError()
    if (bytes === 0) return new Type(buffer, 0, 0)
    this.#doubles[doubles.bytes] = bytes
    this.#words[words.uncleared] = clear ? 0 : 1
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
