// Values into cells.

import { types } from 'node:util'
import { type Memory, Moved } from './arrays.js'
import { type Table, tableIn } from './arrow.js'
import { isChain } from './chain.js'
import { type Elements, elementsOfView, type TypedArray } from './dtypes.js'
import { originOf } from './errors.js'
import { endOf } from './leases.js'
import { KeywordArguments, Slice, Tuple } from './marks.js'
import { constants, type NativeConnection } from './native.js'
import { inOrder, isDense, NDArray } from './ndarray.js'
import { Lent, type Objects } from './objects.js'
import { type Port, type Reference, referenceOf } from './port.js'
import { itemOf } from './records.js'
import { Staging } from './staging.js'
import { isStream } from './streams.js'
import { partsOf } from './tables.js'

const { tags, dtypes, flags, sizes, words, references } = constants
const BOOLEAN = tags.boolean
const LEASED = flags.leased
/** What one frame of items holds, about. */
const bytesOfItems = 64 << 10
const itemsInFrame = 256

const released = 'was released already'

const firstDate = Date.parse('0001-01-01T00:00:00Z')
const lastDate = Date.UTC(9999, 11, 31, 23, 59, 59, 999)

const ARGUMENTS = 0
const STEPS = 1
const ITEMS = 2
const RESULT = 3

/**
 * Stages messages. Each begins where the one before ended, so that a getter may make a call of its own while its object is
 * being encoded.
 */
export class Encoder extends Staging {
  /** What `move` handed over in the message staged last, to be released once it is on its way. */
  moved: readonly Moved[] | undefined
  /** `frames.references` if the message staged last has references, else 0. */
  references = 0

  // Whether nothing may stay here, or with others, that the message names.
  #valuesOnly = false
  #payload = 0
  #payloadBase = 0
  #moving: Moved[] | undefined
  // Own objects that nobody was sent before the message that is being staged, and those of the one staged last.
  #lending: number[] | undefined
  #lent: number[] | undefined
  readonly #control: Int32Array
  readonly #memory: Memory
  readonly #objects: Objects
  readonly #port: Port
  // The containers around the value that is being encoded.
  readonly #around: object[] = []

  constructor(native: NativeConnection, control: Int32Array, memory: Memory, objects: Objects, port: Port) {
    super(native)
    this.#control = control
    this.#memory = memory
    this.#objects = objects
    this.#port = port
  }

  /** Whether no message is being staged. */
  get isIdle(): boolean {
    return this.cell === 0
  }

  /** Stages the arguments of a call, after the object that is called. The control block says where they are, until `done`. */
  stage(
    values: readonly unknown[],
    named: KeywordArguments | undefined,
    subject: Reference | undefined,
    valuesOnly = false,
  ): void {
    const before = this.#valuesOnly
    this.#valuesOnly = valuesOnly
    try {
      this.#message(ARGUMENTS, values, named, subject)
    } finally {
      this.#valuesOnly = before
    }
  }

  /** Stages an operation: what it begins with, and its steps. */
  stageSteps(subject: Reference | string, steps: readonly unknown[]): void {
    this.#message(STEPS, steps, undefined, subject)
  }

  /** Stages the one value of an answer. */
  stageResult(value: unknown): void {
    this.#message(RESULT, value, undefined, undefined)
  }

  /** Stages items from an index on, as many as one frame is to hold; the index of the next one. */
  stageItems(values: readonly unknown[], from: number): number {
    return this.#message(ITEMS, values, undefined, undefined, from)
  }

  #message(
    form: number,
    content: unknown,
    named: KeywordArguments | undefined,
    subject: Reference | string | undefined,
    from = 0,
  ): number {
    const cell = this.cell
    const heapBase = this.heapBase
    const payloadBase = this.#payloadBase
    const first = (this.heapAt + 7) & ~7
    const firstPayload = this.#payload
    this.heapAt = first
    this.heapBase = first
    this.#payloadBase = firstPayload
    const moving = this.#moving
    this.#moving = undefined
    const lending = this.#lending
    this.#lending = undefined
    const references = this.references
    this.references = 0
    const keys = this.keys.length
    const around = this.#around.length
    let next = 0
    try {
      if (form === ARGUMENTS) {
        if (subject !== undefined) this.#reference(subject as Reference)
        const values = content as readonly unknown[]
        const count = values.length
        for (let i = 0; i < count; ++i) {
          const value = values[i]
          // The most frequent ones, without a path.
          if (typeof value === 'number') this.number(value)
          else this.#keyed('args', i, value)
        }
        if (named !== undefined) {
          this.keys.push('kwargs')
          this.#object(named.values as Readonly<Record<string, unknown>>, flags.kwargs)
          this.keys.pop()
        }
      } else if (form === STEPS) {
        if (typeof subject === 'string') this.text(subject)
        else this.#reference(subject as Reference)
        const steps = content as readonly unknown[]
        for (let i = 0; i < steps.length; ++i) this.#keyed('steps', i, steps[i])
      } else if (form === RESULT) {
        this.keys.push('result')
        this.#value(content)
        this.keys.pop()
      } else {
        const items = content as readonly unknown[]
        const most = Math.min(items.length, from + itemsInFrame)
        for (next = from; next < most; ++next) {
          if ((this.cell - cell) * sizes.cell + this.heapAt - first > bytesOfItems) break
          this.#keyed('items', next, items[next])
        }
      }
    } catch (error) {
      this.keys.length = keys
      this.#around.length = around
      this.cell = cell
      this.heapAt = first
      if (this.#payload !== firstPayload) {
        this.#payload = firstPayload
        this.#memory.unstage(firstPayload)
      }
      if (this.#lending !== undefined) this.#objects.unsent(this.#lending)
      this.#lending = undefined
      this.references = references
      throw error
    } finally {
      this.moved = this.#moving
      this.#moving = moving
      this.#lent = this.#lending
      this.#lending = lending
      this.heapBase = heapBase
      this.#payloadBase = payloadBase
    }
    const control = this.#control
    control[words.firstCell] = cell
    control[words.cells] = this.cell - cell
    control[words.firstHeap] = first
    control[words.heapBytes] = this.heapAt - first
    control[words.firstPayload] = firstPayload
    return next
  }

  /** The message staged last was submitted, or will not be: its room is free again. */
  done(wasSent = true): void {
    const control = this.#control
    this.cell = control[words.firstCell] as number
    this.heapAt = control[words.firstHeap] as number
    this.#payload = control[words.firstPayload] as number
    if (this.#lent !== undefined) {
      if (wasSent) this.#objects.sent(this.#lent)
      else this.#objects.unsent(this.#lent)
      this.#lent = undefined
    }
    if (this.cell === 0) this.shrink()
  }

  #keyed(list: string, i: number, value: unknown): void {
    this.keys.push(list, i)
    this.#value(value)
    this.keys.length -= 2
  }

  #value(value: unknown): void {
    switch (typeof value) {
      case 'number':
        this.number(value)
        return
      case 'string':
        this.text(value)
        return
      case 'boolean': {
        const at = this.put(BOOLEAN, 0)
        this.i32[at + 2] = value ? 1 : 0
        this.i32[at + 3] = 0
        return
      }
      case 'undefined':
        this.null()
        return
      case 'bigint':
        this.bigint(value)
        return
      case 'object':
        if (value === null) this.null()
        else this.#composite(value)
        return
      case 'function':
        if (!this.#proxy(value)) this.#lend(value, references.callable)
        return
      default:
        this.fail(`is a ${typeof value}, which can't travel`)
    }
  }

  #composite(value: object): void {
    if (Array.isArray(value)) {
      this.#list(value)
      return
    }
    if (this.#proxy(value)) return
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
      this.fail('holds named arguments, which come last and only there')
    else if (value instanceof Slice) this.#parts(tags.slice, 0, [value.start, value.stop, value.step])
    else if (value instanceof Tuple) this.#parts(tags.tuple, value.items.length, value.items)
    else if (value instanceof Lent) this.#lendAnyway(value)
    else if (isStream(value)) this.#stream(value)
    else if (originOf(value) !== undefined) this.#proxy(originOf(value) as object)
    else {
      const table = tableIn(value)
      if (table !== undefined) {
        this.#table(table)
        return
      }
      const name = (value.constructor as { name?: unknown } | undefined)?.name
      const what = typeof name === 'string' && name !== '' ? `of class ${name}` : 'no plain object'
      this.fail(`is ${what}, which can't travel`)
    }
  }

  #date(date: Date): void {
    const time = date.getTime()
    if (Number.isNaN(time)) this.fail('is an invalid Date')
    if (time < firstDate || time > lastDate) {
      this.fail('is a Date outside of the years 1 to 9999, which Python can hold')
    }
    const at = this.put(tags.date, 0)
    this.f64[(at >> 1) + 1] = time
  }

  #enter(value: object): void {
    const around = this.#around
    for (let i = 0; i < around.length; ++i) {
      if (around[i] === value) this.fail('is a cycle: it holds itself')
    }
    if (around.length === sizes.depth) this.fail(`is nested deeper than ${sizes.depth} containers`)
    around.push(value)
  }

  #list(values: readonly unknown[]): void {
    this.#enter(values)
    const count = values.length
    this.container(tags.list, count)
    for (let i = 0; i < count; ++i) {
      const value = values[i]
      if (typeof value === 'number') {
        this.number(value)
        continue
      }
      this.keys.push(i)
      this.#value(value)
      this.keys.pop()
    }
    if (values.length !== count) this.fail('changed its length while it was encoded')
    this.#around.pop()
  }

  #object(value: Readonly<Record<string, unknown>>, flag: number): void {
    if (Object.getOwnPropertySymbols(value).length > 0) {
      if (isStream(value)) {
        this.#stream(value)
        return
      }
      this.fail("has a symbol as a key, which can't travel")
    }
    this.#enter(value)
    const keys = Object.keys(value)
    this.container(tags.object | (flag << 16), keys.length)
    for (const key of keys) {
      this.text(key)
      this.keys.push(key)
      this.#value(value[key])
      this.keys.pop()
    }
    this.#around.pop()
  }

  #map(map: ReadonlyMap<unknown, unknown>): void {
    this.#enter(map)
    const entries = [...map]
    this.container(tags.map, entries.length)
    for (const [i, [key, value]] of entries.entries()) {
      this.keys.push('keys', i)
      this.#value(key)
      this.keys.length -= 2
      this.keys.push(typeof key === 'string' || typeof key === 'number' ? key : i)
      this.#value(value)
      this.keys.pop()
    }
    this.#around.pop()
  }

  #set(set: ReadonlySet<unknown>): void {
    this.#enter(set)
    const values = [...set]
    this.container(tags.set, values.length)
    for (const [i, value] of values.entries()) {
      this.keys.push(i)
      this.#value(value)
      this.keys.pop()
    }
    this.#around.pop()
  }

  #bytes(buffer: ArrayBufferLike, offset: number, length: number, view: object): void {
    const at = this.put(tags.bytes | (dtypes.uint8 << 8), 1)
    this.#elements(at, 0, buffer, offset, length, view)
    this.#extent(length)
  }

  #ndarray(array: NDArray, flag: number): void {
    const item = itemOf(array.dtype)
    this.#checkInUse(array.data)
    if (array.data.length === 0 && array.size > 0) this.#bytesOf(array.data.buffer, 0, 0)
    const start = array.offset * item.per
    const dense = isDense(array, 'C') ? 0 : isDense(array, 'F') ? flags.fortran : undefined
    const strided = dense === undefined && array.shape.length > 1 && this.#memory.has(array.data.buffer)
    if (strided) {
      this.#array(array.data, item, array.shape, flag | flags.strided, array)
    } else if (dense === undefined) {
      this.#array(inOrder(array), item, array.shape, flag)
    } else {
      const whole = start === 0 && array.data.length === array.size * item.per
      const data = whole ? array.data : array.data.subarray(start, start + array.size * item.per)
      this.#array(data, item, array.shape, flag | dense)
    }
  }

  #moved(moved: Moved): void {
    const array = moved.array
    if (array instanceof NDArray) this.#ndarray(array, flags.moved)
    else this.#array(array, elementsOfView(array) as Elements, [array.length], flags.moved)
    this.#moving ??= []
    this.#moving.push(moved)
  }

  #array(
    view: ArrayBufferView,
    elements: Elements,
    shape: readonly number[],
    flag: number,
    strided?: NDArray,
  ): void {
    const isTyped = elements.code === dtypes.none
    const flagged = isTyped ? flag | flags.typed : flag
    const at = this.put(tags.array | (elements.code << 8), shape.length)
    this.#elements(at, flagged, view.buffer, view.byteOffset, view.byteLength, view)
    for (let i = 0; i < shape.length; ++i) this.#extent(shape[i] as number)
    const itemBytes = elements.per * elements.Type.BYTES_PER_ELEMENT
    if (strided !== undefined) {
      for (const stride of strided.strides) this.#extent(stride * itemBytes)
      this.#extent(strided.offset * itemBytes)
    }
    if (!isTyped) return
    this.#extent(itemBytes)
    this.text(elements.name)
  }

  #extent(length: number): void {
    const at = this.put(tags.extent, 0)
    this.i32[at + 2] = length
    this.i32[at + 3] = Math.floor(length / 4294967296)
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
      this.#checkInUse(view)
      where = this.#memory.stage(offset, bytes)
      if (where < 0) this.fail(released)
      this.#payload = where + 1
      where -= this.#payloadBase
      flag |= LEASED
    } else if (bytes >= sizes.leasedFrom) {
      where = this.#memory.stageCopy(this.#bytesOf(buffer, offset, bytes))
      this.#payload = where + 1
      where -= this.#payloadBase
      flag |= LEASED
    } else {
      const few = this.#bytesOf(buffer, offset, bytes)
      this.heapAt = (this.heapAt + 7) & ~7
      where = this.room(bytes)
      this.heap.set(few, where)
      this.heapAt = where + bytes
      where -= this.heapBase
    }
    this.i32[at] = (this.i32[at] as number) | (flag << 16)
    this.i32[at + 2] = where
    this.i32[at + 3] = 0
  }

  #checkInUse(view: object): void {
    const end = endOf(view)
    if (end !== undefined) this.fail(end === 'moved' ? "was moved already: it is its callee's" : released)
  }

  #bytesOf(buffer: ArrayBufferLike, offset: number, bytes: number): Uint8Array {
    try {
      return new Uint8Array(buffer, offset, bytes)
    } catch {
      this.fail('is detached: it was transferred elsewhere')
    }
  }

  #table(table: Table): void {
    const stays = (view: TypedArray) => this.#memory.has(view.buffer)
    const parts = partsOf(table, stays, (columns, reason) => {
      this.keys.push(...columns)
      this.fail(reason)
    })
    this.#parts(tags.table, parts.length - 1, parts)
  }

  #parts(tag: number, count: number, values: readonly unknown[]): void {
    this.#enter(values)
    this.container(tag, count)
    for (const [i, value] of values.entries()) {
      this.keys.push(i)
      this.#value(value)
      this.keys.pop()
    }
    this.#around.pop()
  }

  // --- what stays where it is --------------------------------------------------------------------------------

  /** Whether it stands for another peer's object. */
  #proxy(value: object): boolean {
    const reference = referenceOf(value)
    if (reference === undefined) {
      if (isChain(value)) this.fail('is a chain of accesses that was not awaited')
      return false
    }
    this.#reference(reference)
    return true
  }

  #reference(reference: Reference): void {
    if (reference.port !== this.#port) this.fail('is an object of another bus')
    if (reference.released) this.fail(released)
    this.#identify(reference.slot, reference.generation, reference.id, reference.flags)
  }

  #lend(value: unknown, flag: number): void {
    const id = this.#objects.lend(value)
    if (id < 0) {
      this.#lending ??= []
      this.#lending.push(-id)
    }
    this.#identify(this.#objects.selfSlot, this.#objects.selfGeneration, Math.abs(id), flag)
  }

  /** Own objects by a reference; what is another's already goes as that. */
  #lendAnyway({ value, flags: flag }: Lent): void {
    const isObject = (typeof value === 'object' && value !== null) || typeof value === 'function'
    if (!isObject || !this.#proxy(value)) this.#lend(value, flag)
  }

  #stream(value: object): void {
    const isAsync = !(Symbol.iterator in value)
    this.#lend(value, references.iterable | (isAsync ? references.async : 0))
  }

  #identify(slot: number, generation: number, id: number, flag: number): void {
    if (this.#valuesOnly) this.fail('has no value form')
    const at = this.put(tags.reference | (flag << 16), generation)
    this.i32[at + 2] = id
    this.i32[at + 3] = (slot << 24) | (id / 4294967296)
    this.references = constants.frames.references
  }
}
