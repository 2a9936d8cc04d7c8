// Cells into values. What is decoded here was verified by the core: every offset, count and extent fits.

import type { Memory } from './arrays.js'
import { arrow } from './arrow.js'
import { type Elements, elementsOf, sizeOf, type TypedArray } from './dtypes.js'
import { Lease, releasable } from './leases.js'
import { Slice } from './marks.js'
import { constants } from './native.js'
import { NDArray } from './ndarray.js'
import type { Objects } from './objects.js'
import { itemOf } from './records.js'
import { tableOf } from './tables.js'

const { tags, flags, sizes } = constants
const NULL = tags.null
const BOOLEAN = tags.boolean
const INTEGER = tags.integer
const REAL = tags.real
const TEXT = tags.text
const LIST = tags.list
const OBJECT = tags.object
const ASCII = flags.ascii << 16
const cellWords = sizes.cell >> 2
const handleWords = sizes.handle >> 2
const shortText = 24
const fromCharCode = String.fromCharCode

/** In the place of a value that can't be read here. */
export class Unreadable {
  constructor(readonly reason: unknown) {}
}

/** Reads values out of frames that were copied to a private buffer. */
export class Decoder {
  #i32!: Int32Array
  #f64!: Float64Array
  #i64!: BigInt64Array
  #bytes!: Buffer
  #buffer!: ArrayBuffer
  readonly #memory: Memory
  readonly #objects: Objects
  // The frame that is being decoded.
  #at = 0
  #heap = 0
  #payloads = 0
  #leases: Lease[] | undefined

  constructor(memory: Memory, inbox: ArrayBuffer, objects: Objects) {
    this.#memory = memory
    this.#objects = objects
    this.look(inbox)
  }

  /** Where the next frames lie. */
  look(buffer: ArrayBuffer): void {
    if (this.#buffer === buffer) return
    this.#buffer = buffer
    const whole = buffer.byteLength & ~7
    this.#i32 = new Int32Array(buffer, 0, whole >> 2)
    this.#f64 = new Float64Array(buffer, 0, whole >> 3)
    this.#i64 = new BigInt64Array(buffer, 0, whole >> 3)
    this.#bytes = Buffer.from(buffer)
  }

  /** The value of a frame: where its cells, its heap and its payloads are, and how many payloads. */
  frame(cells: number, heap: number, payloads: number, count: number): unknown {
    this.#at = cells
    this.#heap = heap
    if (count === 0) return this.#value()
    this.#hold(payloads, count)
    try {
      return this.#value()
    } finally {
      this.#letGo()
    }
  }

  /**
   * All values of a frame: the arguments of a call, the items of a stream. Deliveries are tuples whose last member was sent by
   * another peer: if that can't be read, what says why is in its place.
   */
  values(
    cells: number,
    cellCount: number,
    heap: number,
    payloads: number,
    count: number,
    areDeliveries = false,
  ): unknown[] {
    this.#at = cells
    this.#heap = heap
    this.#hold(payloads, count)
    const end = cells + cellCount * cellWords
    const values: unknown[] = []
    try {
      while (this.#at < end) values.push(areDeliveries ? this.#delivery() : this.#value())
    } finally {
      this.#letGo()
    }
    return values
  }

  #delivery(): unknown {
    const at = this.#at
    if (((this.#i32[at] as number) & 0xff) !== tags.tuple || this.#i32[at + 1] === 0) return this.#value()
    this.#at = at + cellWords
    const members = this.#list((this.#i32[at + 1] as number) - 1)
    const last = this.#at
    try {
      members.push(this.#value())
    } catch (error) {
      members.push(new Unreadable(error))
      this.#at = last
      this.#skip()
    }
    return members
  }

  #skip(): void {
    for (let open = 1; open > 0; --open) {
      const head = this.#i32[this.#at] as number
      const count = (this.#i32[this.#at + 1] as number) >>> 0
      const tag = head & 0xff
      this.#at += cellWords
      if (tag === LIST || tag === tags.tuple || tag === tags.set) open += count
      else if (tag === OBJECT || tag === tags.map) open += 2 * count
      else if (tag === tags.slice) open += 3
      else if (tag === tags.table) open += count + 1
      else if (tag === tags.bytes || tag === tags.array) {
        const extents = tag === tags.bytes ? 1 : count
        const flag = head >> 16
        this.#at += (flag & flags.strided ? 2 * extents + 1 : extents) * cellWords
        if (flag & flags.typed) this.#at += 2 * cellWords
      }
    }
  }

  /** Until `letGo`, the frame that is being decoded holds its payloads once for itself. */
  #hold(payloads: number, count: number): void {
    this.#payloads = payloads
    if (count > 0) this.#leases = Array.from({ length: count }, (_, i) => this.#lease(i))
  }

  #letGo(): void {
    if (this.#leases === undefined) return
    for (const lease of this.#leases) lease.drop()
    this.#leases = undefined
  }

  /** A text that is no value: the name of an export. */
  name(start: number, bytes: number): string {
    return this.#bytes.toString('utf8', start, start + bytes)
  }

  /** Gives back what came with a frame that nobody waits for. */
  discard(cells: number, cellCount: number, payloads: number, count: number): void {
    this.#payloads = payloads
    for (let i = 0; i < count; ++i) this.#lease(i).drop()
    this.#at = cells
    this.giveUp(cells, cellCount)
  }

  /** Gives back the references that were not decoded, because what came before them failed. */
  giveUp(cells: number, cellCount: number): void {
    const end = cells + cellCount * cellWords
    for (; this.#at < end; this.#at += cellWords) {
      if (((this.#i32[this.#at] as number) & 0xff) !== tags.reference) continue
      const [slot, generation, id] = this.#identity(this.#at)
      this.#objects.discard(slot, generation, id)
    }
  }

  /** Owner's slot and generation, and id. */
  #identity(at: number): [number, number, number] {
    const high = (this.#i32[at + 3] as number) >>> 0
    const id = (high & 0xffffff) * 4294967296 + ((this.#i32[at + 2] as number) >>> 0)
    return [high >>> 24, this.#i32[at + 1] as number, id]
  }

  #lease(index: number): Lease {
    const at = this.#payloads + index * handleWords
    const lease = new Lease(this.#memory, this.#i32[at + 4] as number, this.#i32[at + 5] as number)
    lease.hold()
    return lease
  }

  /** An unsigned 64-bit number that is known to be safe. */
  #long(at: number): number {
    return (this.#i32[at + 1] as number) * 4294967296 + ((this.#i32[at] as number) >>> 0)
  }

  #value(): unknown {
    const at = this.#at
    this.#at = at + cellWords
    const head = this.#i32[at] as number
    switch (head & 0xff) {
      case INTEGER:
        return this.#integer(at)
      case REAL:
        return this.#f64[(at >> 1) + 1]
      case TEXT:
        return this.#text(at, head)
      case NULL:
        return null
      case BOOLEAN:
        return this.#i32[at + 2] !== 0
      case LIST:
        return this.#list(this.#i32[at + 1] as number)
      case OBJECT:
        return this.#object((this.#i32[at + 1] as number) >>> 0)
      default:
        return this.#rare(at, head)
    }
  }

  #integer(at: number): number | bigint {
    const low = this.#i32[at + 2] as number
    const high = this.#i32[at + 3] as number
    if (high === low >> 31) return low
    const value = high * 4294967296 + (low >>> 0)
    return Number.isSafeInteger(value) ? value : (this.#i64[(at >> 1) + 1] as bigint)
  }

  #rare(at: number, head: number): unknown {
    const count = (this.#i32[at + 1] as number) >>> 0
    switch (head & 0xff) {
      case tags.bigint:
        return this.#bigint(this.#heap + (this.#i32[at + 2] as number), count)
      case tags.date:
        return new Date(this.#f64[(at >> 1) + 1] as number)
      case tags.map: {
        const map = new Map<unknown, unknown>()
        for (let i = 0; i < count; ++i) {
          const key = this.#value()
          map.set(key, this.#value())
        }
        return map
      }
      case tags.set: {
        const set = new Set<unknown>()
        for (let i = 0; i < count; ++i) set.add(this.#value())
        return set
      }
      case tags.reference: {
        const [slot, generation, id] = this.#identity(at)
        return this.#objects.received(slot, generation, id, (head >> 16) & 0xffff)
      }
      case tags.slice: {
        const start = this.#value()
        const stop = this.#value()
        return new Slice(start, stop, this.#value())
      }
      case tags.tuple:
        return this.#list(count)
      case tags.table:
        arrow() // without it, nothing is to be leased
        return releasable(tableOf(this.#list(count + 1)))
      case tags.pickle:
        throw new TypeError('a pickle has arrived, which only a Python peer that asked for it reads')
      case tags.bytes:
      case tags.array:
        return this.#array(at, head, count)
      default:
        throw new TypeError(`a value of an unknown kind (${head & 0xff}) has arrived`)
    }
  }

  #text(at: number, head: number): string {
    const length = (this.#i32[at + 1] as number) >>> 0
    const start = this.#heap + ((this.#i32[at + 2] as number) >>> 0)
    if ((head & ASCII) === 0) return this.#unicode(start, start + length)
    if (length > shortText) return this.#bytes.toString('latin1', start, start + length)
    let text = ''
    for (let i = start; i < start + length; ++i) text += fromCharCode(this.#bytes[i] as number)
    return text
  }

  #unicode(start: number, end: number): string {
    const text = this.#bytes.toString('utf8', start, end)
    // Only what is no UTF-8 becomes U+FFFD: lone surrogates, three bytes each, or a real U+FFFD.
    return text.includes('\ufffd') ? this.#loneSurrogates(start, end) : text
  }

  #loneSurrogates(start: number, end: number): string {
    const bytes = this.#bytes
    let text = ''
    let done = start
    for (let i = start; i + 2 < end; ++i) {
      const second = bytes[i + 1] as number
      if (bytes[i] !== 0xed || second < 0xa0) continue
      text += bytes.toString('utf8', done, i)
      text += fromCharCode(0xd000 | ((second & 63) << 6) | ((bytes[i + 2] as number) & 63))
      done = i + 3
      i += 2
    }
    return text + bytes.toString('utf8', done, end)
  }

  #list(count: number): unknown[] {
    const list: unknown[] = []
    for (let i = 0; i < count; ++i) list.push(this.#value())
    return list
  }

  #object(count: number): Record<string, unknown> {
    const object: Record<string, unknown> = {}
    for (let i = 0; i < count; ++i) {
      const at = this.#at
      this.#at = at + cellWords
      const key = this.#text(at, this.#i32[at] as number)
      const value = this.#value()
      if (key === '__proto__') {
        Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true })
      } else {
        object[key] = value
      }
    }
    return object
  }

  #bigint(start: number, bytes: number): number | bigint {
    const digits = Buffer.from(this.#bytes.subarray(start, start + bytes))
      .reverse()
      .toString('hex')
    const value = BigInt.asIntN(bytes * 8, BigInt(`0x${digits || '0'}`))
    const small = Number(value)
    return Number.isSafeInteger(small) ? small : value
  }

  #array(at: number, head: number, dimensions: number): unknown {
    const flag = head >> 16
    const isBytes = (head & 0xff) === tags.bytes
    const shape = this.#extents(dimensions)
    const strides = flag & flags.strided ? this.#extents(dimensions) : undefined
    const start = strides && (this.#extents(1)[0] as number)
    const elements = flag & flags.typed ? this.#typed() : (elementsOf[(head >> 8) & 0xff] as Elements)
    const where = this.#i32[at + 2] as number
    const itemBytes = elements.per * elements.Type.BYTES_PER_ELEMENT
    const length = strides
      ? Math.floor(this.#long(this.#payloads + where * handleWords + 2) / itemBytes) * elements.per
      : sizeOf(shape) * elements.per
    const data =
      flag & flags.leased ? this.#leased(elements, where, length) : this.#inline(elements, where, length)
    if (strides !== undefined) {
      const layout = {
        strides: strides.map(stride => stride / itemBytes),
        offset: (start as number) / itemBytes,
      }
      return new NDArray(data, shape, elements.name, layout)
    }
    if (isBytes || (dimensions === 1 && elements.native)) return data
    return new NDArray(data, shape, elements.name, flag & flags.fortran ? 'F' : 'C')
  }

  #extents(count: number): number[] {
    const extents: number[] = []
    for (let i = 0; i < count; ++i, this.#at += cellWords) extents.push(this.#long(this.#at + 2))
    return extents
  }

  /** The type of elements that have no dtype, which comes as a text behind their size. */
  #typed(): Elements {
    const bytes = this.#extents(1)[0] as number
    const at = this.#at
    this.#at += cellWords
    const elements = itemOf(this.#text(at, this.#i32[at] as number))
    if (elements.per * elements.Type.BYTES_PER_ELEMENT === bytes) return elements
    throw new TypeError(`an array of ${elements.name} with elements of ${bytes} bytes has arrived`)
  }

  #inline(elements: Elements, offset: number, length: number): TypedArray {
    const start = this.#heap + (offset >>> 0)
    const bytes = length * elements.Type.BYTES_PER_ELEMENT
    return new elements.Type(this.#buffer.slice(start, start + bytes), 0, length)
  }

  #leased(elements: Elements, payload: number, length: number): TypedArray {
    const { Type } = elements
    const offset = this.#long(this.#payloads + payload * handleWords)
    const bytes = length * Type.BYTES_PER_ELEMENT
    if (bytes === 0) return new Type(new ArrayBuffer(0))
    const lease = (this.#leases as Lease[])[payload] as Lease
    if (offset % Type.BYTES_PER_ELEMENT === 0) return this.#memory.view(Type, offset, length, lease)
    return new Type(this.#memory.copy(offset, bytes), 0, length)
  }
}
