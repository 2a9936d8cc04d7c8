// Values into cells (bus/wire.hpp), in buffers that the addon reads.

import { types } from 'node:util'
import {
  type Elements,
  elementsOfArray,
  elementsOfView,
  isReleased,
  type Memory,
  Moved,
  NDArray,
} from './arrays.js'
import { EncodeError } from './errors.js'
import { KeywordArguments } from './marks.js'
import { constants, type NativeConnection } from './native.js'

const { tags, dtypes, flags, sizes, words } = constants
const NULL = tags.null
const BOOLEAN = tags.boolean
const INTEGER = tags.integer
const REAL = tags.real
const TEXT = tags.text
const LEASED = flags.leased
const ASCII = tags.text | (flags.ascii << 16)

/** Below this length a loop is faster than a call into the engine. */
const shortText = 48
/** What one message may hold; the bus's own limit is its memory. */
const mostBytes = 1 << 30
const fewCells = 256
const littleHeap = 16 << 10

const firstDate = Date.parse('0001-01-01T00:00:00Z')
const lastDate = Date.UTC(9999, 11, 31, 23, 59, 59, 999)

type Key = string | number
const identifier = /^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u

function pathOf(keys: readonly Key[]): string {
  let path = ''
  for (const key of keys) {
    if (typeof key === 'number') path += `[${key}]`
    else if (path === '') path = key
    else path += identifier.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`
  }
  return path
}

function isWellFormed(text: string): boolean {
  return (text as string & { isWellFormed(): boolean }).isWellFormed()
}

/** How many bytes of two's complement a bigint needs. */
function bytesOf(value: bigint): number {
  const bits = (value < 0n ? ~value : value).toString(16).length * 4 + 1
  let bytes = (bits + 7) >> 3
  while (bytes > 1 && BigInt.asIntN((bytes - 1) * 8, value) === value) --bytes
  return bytes
}

/**
 * Stages messages. Each begins where the one before ended, so that a getter may make a call of its own while its object is
 * being encoded.
 */
export class Encoder {
  /** What `move` handed over in the message staged last, to be released once it is on its way. */
  moved: readonly Moved[] | undefined

  // The next free cell, byte of the heap and payload, and where the message that is being staged began.
  #cell = 0
  #heapAt = 0
  #payload = 0
  #heapBase = 0
  #payloadBase = 0
  #moving: Moved[] | undefined
  #i32 = new Int32Array(0)
  #f64 = new Float64Array(0)
  #i64 = new BigInt64Array(0)
  #heap = Buffer.alloc(0)
  #cells = 0
  readonly #native: NativeConnection
  readonly #control: Int32Array
  readonly #memory: Memory
  // Where the value that is being encoded sits, and the containers around it.
  readonly #keys: Key[] = []
  readonly #around: object[] = []

  constructor(native: NativeConnection, control: Int32Array, memory: Memory) {
    this.#native = native
    this.#control = control
    this.#memory = memory
    this.#lend(fewCells, littleHeap)
  }

  /** Stages the arguments of a call. The control block says where they are, until `done`. */
  stage(values: readonly unknown[], named: KeywordArguments | undefined): void {
    const cell = this.#cell
    const heapBase = this.#heapBase
    const payloadBase = this.#payloadBase
    const first = (this.#heapAt + 7) & ~7
    const firstPayload = this.#payload
    this.#heapAt = first
    this.#heapBase = first
    this.#payloadBase = firstPayload
    const moving = this.#moving
    this.#moving = undefined
    const keys = this.#keys.length
    const around = this.#around.length
    try {
      const count = values.length
      for (let i = 0; i < count; ++i) {
        const value = values[i]
        // The most frequent ones, without a path.
        if (typeof value === 'number') this.#number(value)
        else this.#argument(value, i)
      }
      if (named !== undefined) {
        this.#keys.push('kwargs')
        this.#object(named.values, flags.kwargs)
        this.#keys.pop()
      }
    } catch (error) {
      this.#keys.length = keys
      this.#around.length = around
      this.#cell = cell
      this.#heapAt = first
      if (this.#payload !== firstPayload) {
        this.#payload = firstPayload
        this.#memory.unstage(firstPayload)
      }
      throw error
    } finally {
      this.moved = this.#moving
      this.#moving = moving
      this.#heapBase = heapBase
      this.#payloadBase = payloadBase
    }
    const control = this.#control
    control[words.firstCell] = cell
    control[words.cells] = this.#cell - cell
    control[words.firstHeap] = first
    control[words.heapBytes] = this.#heapAt - first
    control[words.firstPayload] = firstPayload
  }

  /** The message staged last was submitted, or will not be: its room is free again. */
  done(): void {
    const control = this.#control
    this.#cell = control[words.firstCell] as number
    this.#heapAt = control[words.firstHeap] as number
    this.#payload = control[words.firstPayload] as number
    if (this.#cell === 0 && this.#heap.length + this.#i32.byteLength > 8 * sizes.inbox)
      this.#lend(fewCells, littleHeap)
  }

  #argument(value: unknown, i: number): void {
    this.#keys.push('args', i)
    this.#value(value)
    this.#keys.length -= 2
  }

  #fail(reason: string): never {
    throw new EncodeError(pathOf(this.#keys), reason)
  }

  #lend(cells: number, heap: number): void {
    const oldCells = new Uint8Array(this.#i32.buffer)
    const oldHeap = this.#heap
    const cellBuffer = new ArrayBuffer(cells * sizes.cell)
    const heapBuffer = new ArrayBuffer(heap)
    this.#native.lend(cellBuffer, heapBuffer)
    this.#i32 = new Int32Array(cellBuffer)
    this.#f64 = new Float64Array(cellBuffer)
    this.#i64 = new BigInt64Array(cellBuffer)
    this.#heap = Buffer.from(heapBuffer)
    this.#cells = cells
    new Uint8Array(cellBuffer).set(oldCells.subarray(0, this.#cell * sizes.cell))
    this.#heap.set(oldHeap.subarray(0, this.#heapAt))
  }

  /** The index, in 32-bit words, of a new cell. */
  #put(head: number, count: number): number {
    if (this.#cell === this.#cells) {
      if (this.#cells * sizes.cell >= mostBytes)
        this.#fail(`is too large: a message holds at most ${mostBytes} bytes`)
      this.#lend(this.#cells * 2, this.#heap.length)
    }
    const at = this.#cell++ << 2
    this.#i32[at] = head
    this.#i32[at + 1] = count
    return at
  }

  #room(bytes: number): number {
    const at = this.#heapAt
    if (at + bytes > this.#heap.length) {
      if (at + bytes > mostBytes) this.#fail(`is too large: a message holds at most ${mostBytes} bytes`)
      let size = this.#heap.length * 2
      while (size < at + bytes) size *= 2
      this.#lend(this.#cells, size)
    }
    return at
  }

  #number(value: number): void {
    const small = value | 0
    if (small === value && (small !== 0 || 1 / value > 0)) {
      const at = this.#put(INTEGER, 0)
      this.#i32[at + 2] = small
      this.#i32[at + 3] = small >> 31
    } else if (Number.isSafeInteger(value) && value !== 0) {
      const at = this.#put(INTEGER, 0)
      this.#i32[at + 2] = value
      this.#i32[at + 3] = Math.floor(value / 4294967296)
    } else {
      const at = this.#put(REAL, 0)
      this.#f64[(at >> 1) + 1] = value
    }
  }

  #value(value: unknown): void {
    switch (typeof value) {
      case 'number':
        this.#number(value)
        return
      case 'string':
        this.#text(value)
        return
      case 'boolean': {
        const at = this.#put(BOOLEAN, 0)
        this.#i32[at + 2] = value ? 1 : 0
        this.#i32[at + 3] = 0
        return
      }
      case 'undefined':
        this.#null()
        return
      case 'bigint':
        this.#bigint(value)
        return
      case 'object':
        if (value === null) this.#null()
        else this.#composite(value)
        return
      default:
        this.#fail(`is a ${typeof value}, which can't travel`)
    }
  }

  #null(): void {
    const at = this.#put(NULL, 0)
    this.#i32[at + 2] = 0
    this.#i32[at + 3] = 0
  }

  #text(text: string): void {
    const length = text.length
    if (length <= shortText) {
      const start = this.#room(length)
      const heap = this.#heap
      let i = 0
      for (; i < length; ++i) {
        const unit = text.charCodeAt(i)
        if (unit > 127) break
        heap[start + i] = unit
      }
      if (i === length) {
        const at = this.#put(ASCII, length)
        this.#i32[at + 2] = start - this.#heapBase
        this.#i32[at + 3] = 0
        this.#heapAt = start + length
        return
      }
    }
    this.#longText(text)
  }

  #longText(text: string): void {
    // One unit of UTF-16 is at most three bytes; measuring first is cheaper than so much room for a long text.
    const most = text.length <= 4096 ? text.length * 3 : Buffer.byteLength(text)
    const start = this.#room(most)
    const bytes = isWellFormed(text) ? this.#heap.write(text, start) : this.#loneSurrogates(text, start)
    const at = this.#put(bytes === text.length ? ASCII : TEXT, bytes)
    this.#i32[at + 2] = start - this.#heapBase
    this.#i32[at + 3] = 0
    this.#heapAt = start + bytes
  }

  /** WTF-8: a surrogate without its other half is written like any other code point of three bytes. */
  #loneSurrogates(text: string, start: number): number {
    let at = start
    for (let i = 0; i < text.length; ++i) {
      const point = text.codePointAt(i) as number
      if (point < 0x80) {
        this.#heap[at++] = point
      } else if (point < 0x800) {
        this.#heap[at++] = 0xc0 | (point >> 6)
        this.#heap[at++] = 0x80 | (point & 63)
      } else if (point < 0x10000) {
        this.#heap[at++] = 0xe0 | (point >> 12)
        this.#heap[at++] = 0x80 | ((point >> 6) & 63)
        this.#heap[at++] = 0x80 | (point & 63)
      } else {
        ++i
        this.#heap[at++] = 0xf0 | (point >> 18)
        this.#heap[at++] = 0x80 | ((point >> 12) & 63)
        this.#heap[at++] = 0x80 | ((point >> 6) & 63)
        this.#heap[at++] = 0x80 | (point & 63)
      }
    }
    return at - start
  }

  #bigint(value: bigint): void {
    if (BigInt.asIntN(64, value) === value) {
      const at = this.#put(INTEGER, 0)
      this.#i64[(at >> 1) + 1] = value
      return
    }
    const bytes = bytesOf(value)
    const start = this.#room(bytes)
    const digits = BigInt.asUintN(bytes * 8, value)
      .toString(16)
      .padStart(bytes * 2, '0')
    this.#heap.write(digits, start, 'hex')
    this.#heap.subarray(start, start + bytes).reverse()
    const at = this.#put(tags.bigint, bytes)
    this.#i32[at + 2] = start - this.#heapBase
    this.#i32[at + 3] = 0
    this.#heapAt = start + bytes
  }

  #composite(value: object): void {
    if (Array.isArray(value)) {
      this.#list(value)
      return
    }
    const prototype = Object.getPrototypeOf(value)
    if (prototype === null || prototype === Object.prototype || Object.getPrototypeOf(prototype) === null) {
      this.#object(value as Record<string, unknown>, 0)
    } else if (ArrayBuffer.isView(value)) {
      const elements = Buffer.isBuffer(value) ? undefined : elementsOfView(value)
      if (elements === undefined) this.#bytes(value.buffer, value.byteOffset, value.byteLength, value)
      else this.#array(value, elements, [(value as Uint8Array).length], 0)
    } else if (value instanceof NDArray) this.#ndarray(value, 0)
    else if (value instanceof Moved) this.#moved(value)
    else if (types.isDate(value)) this.#date(value)
    else if (types.isMap(value)) this.#map(value)
    else if (types.isSet(value)) this.#set(value)
    else if (types.isAnyArrayBuffer(value)) this.#bytes(value, 0, value.byteLength, value)
    else if (value instanceof KeywordArguments)
      this.#fail('holds named arguments, which come last and only there')
    else {
      const name = (value.constructor as { name?: unknown } | undefined)?.name
      const what = typeof name === 'string' && name !== '' ? `of class ${name}` : 'no plain object'
      this.#fail(`is ${what}, which can't travel`)
    }
  }

  #date(date: Date): void {
    const time = date.getTime()
    if (Number.isNaN(time)) this.#fail('is an invalid Date')
    if (time < firstDate || time > lastDate) {
      this.#fail('is a Date outside of the years 1 to 9999, which Python can hold')
    }
    const at = this.#put(tags.date, 0)
    this.#f64[(at >> 1) + 1] = time
  }

  #enter(value: object): void {
    const around = this.#around
    for (let i = 0; i < around.length; ++i) {
      if (around[i] === value) this.#fail('is a cycle: it holds itself')
    }
    if (around.length === sizes.depth) this.#fail(`is nested deeper than ${sizes.depth} containers`)
    around.push(value)
  }

  #list(values: readonly unknown[]): void {
    this.#enter(values)
    const count = values.length
    const head = this.#put(tags.list, count)
    this.#i32[head + 2] = 0
    this.#i32[head + 3] = 0
    for (let i = 0; i < count; ++i) {
      const value = values[i]
      if (typeof value === 'number') {
        this.#number(value)
        continue
      }
      this.#keys.push(i)
      this.#value(value)
      this.#keys.pop()
    }
    if (values.length !== count) this.#fail('changed its length while it was encoded')
    this.#around.pop()
  }

  #object(value: Readonly<Record<string, unknown>>, flag: number): void {
    this.#enter(value)
    const keys = Object.keys(value)
    if (Object.getOwnPropertySymbols(value).length > 0)
      this.#fail("has a symbol as a key, which can't travel")
    const head = this.#put(tags.object | (flag << 16), keys.length)
    this.#i32[head + 2] = 0
    this.#i32[head + 3] = 0
    for (const key of keys) {
      this.#text(key)
      this.#keys.push(key)
      this.#value(value[key])
      this.#keys.pop()
    }
    this.#around.pop()
  }

  #map(map: ReadonlyMap<unknown, unknown>): void {
    this.#enter(map)
    const entries = [...map]
    const head = this.#put(tags.map, entries.length)
    this.#i32[head + 2] = 0
    this.#i32[head + 3] = 0
    for (const [i, [key, value]] of entries.entries()) {
      this.#keys.push('keys', i)
      this.#value(key)
      this.#keys.length -= 2
      this.#keys.push(typeof key === 'string' || typeof key === 'number' ? key : i)
      this.#value(value)
      this.#keys.pop()
    }
    this.#around.pop()
  }

  #set(set: ReadonlySet<unknown>): void {
    this.#enter(set)
    const values = [...set]
    const head = this.#put(tags.set, values.length)
    this.#i32[head + 2] = 0
    this.#i32[head + 3] = 0
    for (const [i, value] of values.entries()) {
      this.#keys.push(i)
      this.#value(value)
      this.#keys.pop()
    }
    this.#around.pop()
  }

  #bytes(buffer: ArrayBufferLike, offset: number, length: number, view: object): void {
    const at = this.#put(tags.bytes | (dtypes.uint8 << 8), 1)
    this.#elements(at, 0, buffer, offset, length, view)
    this.#extent(length)
  }

  #ndarray(array: NDArray, flag: number): void {
    const order = array.order === 'F' ? flags.fortran : 0
    this.#array(array.data, elementsOfArray(array), array.shape, flag | order)
  }

  #moved(moved: Moved): void {
    const array = moved.array
    if (array instanceof NDArray) this.#ndarray(array, flags.moved)
    else this.#array(array, elementsOfView(array) as Elements, [array.length], flags.moved)
    this.#moving ??= []
    this.#moving.push(moved)
  }

  #array(view: ArrayBufferView, elements: Elements, shape: readonly number[], flag: number): void {
    const at = this.#put(tags.array | (elements.code << 8), shape.length)
    this.#elements(at, flag, view.buffer, view.byteOffset, view.byteLength, view)
    for (let i = 0; i < shape.length; ++i) this.#extent(shape[i] as number)
  }

  #extent(length: number): void {
    const at = this.#put(tags.extent, 0)
    this.#i32[at + 2] = length
    this.#i32[at + 3] = length / 4294967296
  }

  /** Where the elements are: in the heap when they are few, else a payload; never a copy of what is in bus memory. */
  #elements(
    at: number,
    flag: number,
    buffer: ArrayBufferLike,
    offset: number,
    bytes: number,
    view: object,
  ): void {
    let where: number
    if (bytes > 0 && this.#memory.has(buffer)) {
      where = isReleased(view) ? -1 : this.#memory.stage(offset, bytes)
      if (where < 0) this.#fail('was released already')
      this.#payload = where + 1
      where -= this.#payloadBase
      flag |= LEASED
    } else if (bytes >= sizes.leasedFrom) {
      where = this.#memory.stageCopy(new Uint8Array(buffer, offset, bytes))
      this.#payload = where + 1
      where -= this.#payloadBase
      flag |= LEASED
    } else {
      this.#heapAt = (this.#heapAt + 7) & ~7
      where = this.#room(bytes)
      this.#heap.set(new Uint8Array(buffer, offset, bytes), where)
      this.#heapAt = where + bytes
      where -= this.#heapBase
    }
    this.#i32[at] = (this.#i32[at] as number) | (flag << 16)
    this.#i32[at + 2] = where
    this.#i32[at + 3] = 0
  }
}
