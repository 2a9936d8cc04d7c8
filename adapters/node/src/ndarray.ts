// n-dimensional arrays: elements in a typed array, and where each dimension's next one is.

import { byName, type DType, type Elements, elementsOfView, sizeOf, type TypedArray } from './dtypes.js'
import { checkInUse, makePart, release } from './leases.js'
import { itemOf, type RecordType, recordOf } from './records.js'

/** Where the elements of an NDArray are: in C order (the last dimension varies fastest), Fortran order, or anywhere. */
export type Layout =
  | 'C'
  | 'F'
  | {
      /** For each dimension, how many elements further its next one is; may be negative or 0. */
      readonly strides: readonly number[]
      /** How many elements into the data the first one is. */
      readonly offset?: number
    }

/** What one element is in JavaScript. */
export type Element =
  | number
  | bigint
  | boolean
  | string
  | Uint8Array
  | { readonly re: number; readonly im: number }
  | { readonly [field: string]: unknown }

/** What `NDArray.slice` takes for one dimension: an index, which drops it, or [start, stop, step]; null is all of it. */
export type Range = number | null | readonly [start?: number | null, stop?: number | null, step?: number]

/** Elements of arrays, nested as deep as there are dimensions. */
export type Nested = Element | Nested[]

/**
 * An n-dimensional array, and any array whose element type has no typed array of its own.
 *
 * The elements of each dtype lie so: bool in a Uint8Array; float16 in a Float16Array, or where there is none its bits in a Uint16Array;
 * complex64 and complex128 as two numbers each; datetime64 and timedelta64 (`<M8[ns]`, `<m8[s]` …) as counts in a BigInt64Array;
 * bytes and strings of fixed length (`|S10`, `<U5`) and records (`[["x","<f4"],["id","<i8"]]`) as bytes in a Uint8Array.
 */
export class NDArray<T extends TypedArray = TypedArray> {
  readonly data: T
  /** The length of each dimension. */
  readonly shape: readonly number[]
  /** numpy's name of the element type, like `float64`, or where that is no plain number its code, like `<M8[ns]`. */
  readonly dtype: DType | (string & {})
  /** For each dimension, how many elements further its next one is. */
  readonly strides: readonly number[]
  /** How many elements into the data the first one is. */
  readonly offset: number

  /** @throws TypeError when the shape does not fit the data, or the dtype does not fit the typed array. */
  constructor(data: T, shape: readonly number[], dtype?: string, layout: Layout = 'C') {
    const own = elementsOfView(data)
    if (own === undefined) throw new TypeError('the data of an NDArray is a typed array')
    const { name, per } = fitting(dtype, own)
    for (const extent of shape) {
      if (!Number.isSafeInteger(extent) || extent < 0) throw new TypeError(`${extent} is no extent`)
    }
    this.data = data
    this.shape = Object.freeze([...shape])
    this.dtype = name
    const isPlain = typeof layout === 'string'
    this.strides = Object.freeze(isPlain ? denseStrides(shape, layout) : [...layout.strides])
    this.offset = isPlain ? 0 : (layout.offset ?? 0)
    if (isPlain) {
      const count = this.size * per
      if (count !== data.length) {
        throw new TypeError(`the shape [${shape.join(', ')}] has ${count} numbers, the data ${data.length}`)
      }
    } else checkReach(this, per)
  }

  /** The number of elements. */
  get size(): number {
    return sizeOf(this.shape)
  }

  /** `C` or `F` when the elements lie one after the other, the last or the first dimension varying fastest; else undefined. */
  get order(): 'C' | 'F' | undefined {
    if (isDense(this, 'C')) return 'C'
    return isDense(this, 'F') ? 'F' : undefined
  }

  /** The element at these indices; negative ones count from the end. */
  at(...indices: number[]): Element {
    if (indices.length !== this.shape.length) {
      throw new RangeError(`${this.shape.length} indices are needed, ${indices.length} were given`)
    }
    checkInUse(this.data)
    let position = this.offset
    for (const [dimension, given] of indices.entries()) {
      position += wrapped(given, this.shape[dimension] as number) * (this.strides[dimension] as number)
    }
    return elementAt(this, position)
  }

  /**
   * A view of a part: for each dimension an index or a range, `a.slice(0, [null, null, 2])` is `a[0, ::2]` in Python. Dimensions that are
   * left out are whole. Nothing is copied.
   */
  slice(...ranges: Range[]): NDArray<T> {
    checkInUse(this.data)
    if (ranges.length > this.shape.length) throw new RangeError(`there are ${this.shape.length} dimensions`)
    const shape: number[] = []
    const strides: number[] = []
    let offset = this.offset
    for (const [dimension, extent] of this.shape.entries()) {
      const range = ranges[dimension] ?? []
      const stride = this.strides[dimension] as number
      if (typeof range === 'number') {
        offset += wrapped(range, extent) * stride
        continue
      }
      const { first, count, step } = bounds(range, extent)
      if (count > 0) offset += first * stride
      shape.push(count)
      strides.push(stride * step)
    }
    return new NDArray(this.data, shape, this.dtype, { strides, offset })
  }

  /** The elements as arrays in arrays; for no dimensions the element. A copy. */
  toNested(): Nested {
    checkInUse(this.data)
    const level = (dimension: number, position: number): Nested => {
      if (dimension === this.shape.length) return elementAt(this, position)
      const stride = this.strides[dimension] as number
      return Array.from({ length: this.shape[dimension] as number }, (_, i) =>
        level(dimension + 1, position + i * stride),
      )
    }
    return level(0, this.offset)
  }

  /** One field of an array of records, as an array of its own: over the same bytes where they are aligned for it, else a copy. */
  field(name: string): NDArray {
    checkInUse(this.data)
    const record = recordOf(this.dtype)
    const field = record?.fields.find(each => each.name === name)
    if (record === undefined || field === undefined)
      throw new TypeError(`${this.dtype} has no field '${name}'`)
    const elements = itemOf(field.type)
    const itemBytes = elements.per * elements.Type.BYTES_PER_ELEMENT
    const source = this.data as unknown as Uint8Array
    const start = source.byteOffset + this.offset * record.itemBytes + field.offset
    const fits = (bytes: number) => bytes % itemBytes === 0
    if (field.shape.length === 0 && fits(record.itemBytes) && start % elements.Type.BYTES_PER_ELEMENT === 0) {
      const skipped = (start - source.byteOffset) % itemBytes
      const length = Math.floor((source.byteLength - skipped) / itemBytes) * elements.per
      const view = new elements.Type(source.buffer, source.byteOffset + skipped, length)
      makePart(view, source)
      const strides = this.strides.map(stride => (stride * record.itemBytes) / itemBytes)
      const offset = (start - source.byteOffset - skipped) / itemBytes
      return new NDArray(view, this.shape, elements.name, { strides, offset })
    }
    return copyOfField(this, record, field)
  }

  /** Gives the block back, if it lies in bus memory. */
  [Symbol.dispose](): void {
    release(this)
  }
}

function copyOfField(array: NDArray, record: RecordType, field: RecordType['fields'][number]): NDArray {
  const elements = itemOf(field.type)
  const count = sizeOf(field.shape)
  const bytes = count * elements.per * elements.Type.BYTES_PER_ELEMENT
  const copy = new Uint8Array(array.size * bytes)
  const source = array.data as unknown as Uint8Array
  let to = 0
  forEachPosition(array, position => {
    const from = position * record.itemBytes + field.offset
    copy.set(source.subarray(from, from + bytes), to)
    to += bytes
  })
  const data = new elements.Type(copy.buffer, 0, copy.byteLength / elements.Type.BYTES_PER_ELEMENT)
  return new NDArray(data, [...array.shape, ...field.shape], elements.name)
}

/** The dtype's name and how many numbers of the typed array an element has. */
function fitting(dtype: string | undefined, own: Elements): { name: string; per: number } {
  if (dtype === undefined) return own
  const elements = byName.get(dtype as DType) ?? itemOf(dtype)
  const isClamped = elements.Type === Uint8Array && own.Type === Uint8ClampedArray
  if (elements.Type !== own.Type && !isClamped) {
    throw new TypeError(
      `elements of ${elements.name} lie in a ${elements.Type.name}, not in a ${own.Type.name}`,
    )
  }
  return elements
}

function denseStrides(shape: readonly number[], order: 'C' | 'F'): number[] {
  const strides = new Array<number>(shape.length)
  let stride = 1
  for (let step = 0; step < shape.length; ++step) {
    const dimension = order === 'F' ? step : shape.length - 1 - step
    strides[dimension] = stride
    stride *= shape[dimension] as number
  }
  return strides
}

/** Whether the elements lie one after the other; the strides of dimensions with one element say nothing. */
export function isDense(array: NDArray, order: 'C' | 'F'): boolean {
  if (array.size === 0) return true
  const dense = denseStrides(array.shape, order)
  return array.shape.every((extent, i) => extent === 1 || array.strides[i] === dense[i])
}

function checkReach(array: NDArray, per: number): void {
  const { shape, strides, offset } = array
  if (strides.length !== shape.length) throw new TypeError('there is one stride for each dimension')
  if (![...strides, offset].every(Number.isSafeInteger))
    throw new TypeError('strides and offset are integers')
  let first = offset
  let last = offset
  for (const [i, extent] of shape.entries()) {
    const reach = (extent - 1) * (strides[i] as number)
    if (reach < 0) first += reach
    else last += reach
  }
  if (array.size > 0 && (first < 0 || (last + 1) * per > array.data.length)) {
    throw new TypeError(
      `the shape [${shape.join(', ')}] with strides [${strides.join(', ')}] leaves the data`,
    )
  }
}

function wrapped(given: number, extent: number): number {
  const index = given < 0 ? given + extent : given
  if (Number.isInteger(index) && index >= 0 && index < extent) return index
  throw new RangeError(`${given} is outside of 0 to ${extent - 1}`)
}

/** As Python's slice.indices. */
function bounds(
  [start, stop, step = 1]: Exclude<Range, number | null>,
  extent: number,
): { first: number; count: number; step: number } {
  if (!Number.isInteger(step) || step === 0) throw new RangeError(`${step} is no step`)
  const clamp = (given: number | null | undefined, otherwise: number) => {
    if (given === null || given === undefined) return otherwise
    const index = given < 0 ? given + extent : given
    return step > 0 ? Math.min(Math.max(index, 0), extent) : Math.min(Math.max(index, -1), extent - 1)
  }
  const first = clamp(start, step > 0 ? 0 : extent - 1)
  const end = clamp(stop, step > 0 ? extent : -1)
  return { first, count: Math.max(0, Math.ceil((end - first) / step)), step }
}

function elementAt(array: NDArray, position: number): Element {
  return itemOf(array.dtype).read(array.data, position)
}

function forEachPosition(array: NDArray, visit: (position: number) => void): void {
  const level = (dimension: number, position: number): void => {
    if (dimension === array.shape.length) {
      visit(position)
      return
    }
    for (let i = 0; i < (array.shape[dimension] as number); ++i) {
      level(dimension + 1, position + i * (array.strides[dimension] as number))
    }
  }
  level(0, array.offset)
}

/** The elements in C order: a view where they lie so already, else a copy. */
export function inOrder<T extends TypedArray>(array: NDArray<T>): T {
  const { per } = itemOf(array.dtype)
  const start = array.offset * per
  if (isDense(array, 'C')) return array.data.subarray(start, start + array.size * per) as T
  const Type = array.data.constructor as unknown as new (length: number) => T
  const copy = new Type(array.size * per)
  let to = 0
  forEachPosition(array, position => {
    for (let i = 0; i < per; ++i) copy[to++] = array.data[position * per + i] as never
  })
  return copy
}
