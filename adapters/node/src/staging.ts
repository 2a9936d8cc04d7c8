// Cells, texts and numbers of the message that is being staged, in buffers that the addon reads (bus/wire.hpp).

import { EncodeError } from './errors.js'
import { constants, type NativeConnection } from './native.js'

const { tags, flags, sizes } = constants
const NULL = tags.null
const INTEGER = tags.integer
const REAL = tags.real
const TEXT = tags.text
const ASCII = tags.text | (flags.ascii << 16)

/** Below this length a loop is faster than a call into the engine. */
const shortText = 48
/** What one message may hold; the bus's own limit is its memory. */
const mostBytes = 1 << 30
const fewCells = 256
const littleHeap = 16 << 10

export type Key = string | number
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

/** Where values are put. */
export abstract class Staging {
  // The next free cell and byte of the heap, and where the heap of the message that is being staged began.
  protected cell = 0
  protected heapAt = 0
  protected heapBase = 0
  protected i32 = new Int32Array(0)
  protected f64 = new Float64Array(0)
  protected heap = Buffer.alloc(0)
  #i64 = new BigInt64Array(0)
  #cells = 0
  #isLarge = false
  protected readonly native: NativeConnection
  // Where the value that is being encoded sits.
  protected readonly keys: Key[] = []

  constructor(native: NativeConnection) {
    this.native = native
    this.#lend(fewCells, littleHeap)
  }

  /** After a large message: small buffers again. */
  protected shrink(): void {
    if (this.#isLarge) this.#lend(fewCells, littleHeap)
  }

  protected fail(reason: string): never {
    throw new EncodeError(pathOf(this.keys), reason)
  }

  #lend(cells: number, heap: number): void {
    const oldCells = new Uint8Array(this.i32.buffer)
    const oldHeap = this.heap
    const cellBuffer = new ArrayBuffer(cells * sizes.cell)
    const heapBuffer = new ArrayBuffer(heap)
    this.native.lend(cellBuffer, heapBuffer)
    this.i32 = new Int32Array(cellBuffer)
    this.f64 = new Float64Array(cellBuffer)
    this.#i64 = new BigInt64Array(cellBuffer)
    this.heap = Buffer.from(heapBuffer)
    this.#cells = cells
    this.#isLarge = heap + cells * sizes.cell > 8 * sizes.inbox
    new Uint8Array(cellBuffer).set(oldCells.subarray(0, this.cell * sizes.cell))
    this.heap.set(oldHeap.subarray(0, this.heapAt))
  }

  /** The index, in 32-bit words, of a new cell. */
  protected put(head: number, count: number): number {
    if (this.cell === this.#cells) {
      if (this.#cells * sizes.cell >= mostBytes)
        this.fail(`is too large: a message holds at most ${mostBytes} bytes`)
      this.#lend(this.#cells * 2, this.heap.length)
    }
    const at = this.cell++ << 2
    this.i32[at] = head
    this.i32[at + 1] = count
    return at
  }

  /** A cell that says all in its head: null, or what the cells behind it belong to. */
  protected container(head: number, count: number): void {
    const at = this.put(head, count)
    this.i32[at + 2] = 0
    this.i32[at + 3] = 0
  }

  protected room(bytes: number): number {
    const at = this.heapAt
    if (at + bytes > this.heap.length) {
      if (at + bytes > mostBytes) this.fail(`is too large: a message holds at most ${mostBytes} bytes`)
      let size = this.heap.length * 2
      while (size < at + bytes) size *= 2
      this.#lend(this.#cells, size)
    }
    return at
  }

  protected number(value: number): void {
    const small = value | 0
    if (small === value && (small !== 0 || 1 / value > 0)) {
      const at = this.put(INTEGER, 0)
      this.i32[at + 2] = small
      this.i32[at + 3] = small >> 31
    } else if (Number.isSafeInteger(value) && value !== 0) {
      const at = this.put(INTEGER, 0)
      this.i32[at + 2] = value
      this.i32[at + 3] = Math.floor(value / 4294967296)
    } else {
      const at = this.put(REAL, 0)
      this.f64[(at >> 1) + 1] = value
    }
  }

  protected null(): void {
    this.container(NULL, 0)
  }

  protected text(text: string): void {
    const length = text.length
    if (length <= shortText) {
      const start = this.room(length)
      const heap = this.heap
      let i = 0
      for (; i < length; ++i) {
        const unit = text.charCodeAt(i)
        if (unit > 127) break
        heap[start + i] = unit
      }
      if (i === length) {
        this.heapAt = start + length
        const at = this.put(ASCII, length)
        this.i32[at + 2] = start - this.heapBase
        this.i32[at + 3] = 0
        return
      }
    }
    this.#longText(text)
  }

  #longText(text: string): void {
    // One unit of UTF-16 is at most three bytes; measuring first is cheaper than so much room for a long text.
    const most = text.length <= 4096 ? text.length * 3 : Buffer.byteLength(text)
    const start = this.room(most)
    const bytes = isWellFormed(text) ? this.heap.write(text, start) : this.#loneSurrogates(text, start)
    this.heapAt = start + bytes
    const at = this.put(bytes === text.length ? ASCII : TEXT, bytes)
    this.i32[at + 2] = start - this.heapBase
    this.i32[at + 3] = 0
  }

  /** WTF-8: a surrogate without its other half is written like any other code point of three bytes. */
  #loneSurrogates(text: string, start: number): number {
    let at = start
    for (let i = 0; i < text.length; ++i) {
      const point = text.codePointAt(i) as number
      if (point < 0x80) {
        this.heap[at++] = point
      } else if (point < 0x800) {
        this.heap[at++] = 0xc0 | (point >> 6)
        this.heap[at++] = 0x80 | (point & 63)
      } else if (point < 0x10000) {
        this.heap[at++] = 0xe0 | (point >> 12)
        this.heap[at++] = 0x80 | ((point >> 6) & 63)
        this.heap[at++] = 0x80 | (point & 63)
      } else {
        ++i
        this.heap[at++] = 0xf0 | (point >> 18)
        this.heap[at++] = 0x80 | ((point >> 12) & 63)
        this.heap[at++] = 0x80 | ((point >> 6) & 63)
        this.heap[at++] = 0x80 | (point & 63)
      }
    }
    return at - start
  }

  protected bigint(value: bigint): void {
    if (BigInt.asIntN(64, value) === value) {
      const at = this.put(INTEGER, 0)
      this.#i64[(at >> 1) + 1] = value
      return
    }
    const bytes = bytesOf(value)
    const start = this.room(bytes)
    const digits = BigInt.asUintN(bytes * 8, value)
      .toString(16)
      .padStart(bytes * 2, '0')
    this.heap.write(digits, start, 'hex')
    this.heap.subarray(start, start + bytes).reverse()
    this.heapAt = start + bytes
    const at = this.put(tags.bigint, bytes)
    this.i32[at + 2] = start - this.heapBase
    this.i32[at + 3] = 0
  }
}
