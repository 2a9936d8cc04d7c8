// Tables of apache-arrow: the values that they travel as (docs/protocol.md, Tables), and back.

import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { TypedArray, TypedArrayConstructor } from './dtypes.js'
import { IsthmusError } from './errors.js'

// What is used of apache-arrow. The package is not needed, so its types are not either.

interface Type {
  readonly typeId: number
  readonly ArrayType: TypedArrayConstructor
  readonly children: readonly Field[] | null
  readonly bitWidth: number
  readonly isSigned: boolean
  readonly precision: number
  readonly scale: number
  readonly unit: number
  readonly timezone?: string | null
  readonly byteWidth: number
  readonly listSize: number
  readonly keysSorted: boolean
  readonly dictionary: Type
  readonly indices: Type
  readonly isOrdered: boolean
}

interface Field {
  readonly name: string
  readonly type: Type
  readonly nullable: boolean
  readonly metadata: ReadonlyMap<string, string>
}

interface Data {
  readonly type: Type
  readonly length: number
  readonly offset: number
  readonly nullCount: number
  readonly stride: number
  readonly values: TypedArray
  readonly valueOffsets: TypedArray
  readonly nullBitmap?: Uint8Array
  readonly children: readonly Data[]
  readonly dictionary?: Vector
  readonly variadicBuffers: readonly Uint8Array[]
  slice(offset: number, length: number): Data
}

interface Vector extends Iterable<unknown> {
  readonly data: readonly Data[]
  memoize(): Vector
}

interface RecordBatch {
  readonly schema: Schema
  readonly data: Data
}

interface Schema {
  readonly fields: readonly Field[]
  readonly metadata: ReadonlyMap<string, string>
}

/** A `Table` of apache-arrow. */
export interface ArrowTable {
  readonly schema: object
  readonly batches: readonly object[]
}

/** As far as isthmus looks at it. */
export interface Table extends ArrowTable {
  readonly schema: Schema
  readonly batches: readonly RecordBatch[]
}

type Class<T> = new (...args: readonly unknown[]) => T
type TypeName =
  | 'Null'
  | 'Bool'
  | 'Int'
  | 'Float'
  | 'Decimal'
  | 'Date_'
  | 'Time'
  | 'Timestamp'
  | 'Interval'
  | 'Duration'
type VariableName =
  | 'Utf8'
  | 'LargeUtf8'
  | 'Utf8View'
  | 'Binary'
  | 'LargeBinary'
  | 'BinaryView'
  | 'FixedSizeBinary'
type NestedName = 'List' | 'LargeList' | 'FixedSizeList' | 'Struct' | 'Map_' | 'Dictionary'

interface Library extends Record<TypeName | VariableName | NestedName, Class<Type>> {
  readonly Field: Class<Field>
  readonly Schema: Class<Schema>
  readonly Data: Class<Data>
  readonly Vector: Class<Vector>
  readonly RecordBatch: Class<RecordBatch>
  readonly Table: Class<Table>
  makeData(props: object): Data
  vectorFromArray(values: readonly unknown[], type: Type): Vector
}

let library: Library | undefined

/** apache-arrow, loaded when it is needed first: beside isthmus, or where the program runs. Throws where it is not installed. */
export function arrow(): Library {
  library ??= load(require) ?? load(createRequire(join(process.cwd(), 'package.json')))
  if (library !== undefined) return library
  throw new IsthmusError(
    'ERR_ISTHMUS_NO_ARROW',
    'a table has arrived, which is a Table of apache-arrow, and that is not installed: npm i apache-arrow, or let the table stay where it is: { keep: true }',
  )
}

/**
 * The copy that the program has, since what is made with one is not a column for the other: the one of `require` if somebody has required it,
 * else the one of `import`.
 */
function load(from: NodeJS.Require): Library | undefined {
  let path: string
  try {
    path = from.resolve('apache-arrow')
  } catch {
    return undefined
  }
  const module = path.replace(/\.js$/, '.mjs')
  if (from.cache[path] !== undefined || !existsSync(module)) return from(path) as Library
  try {
    return from(module) as Library
  } catch (error) {
    // Nodes before 20.19 require no modules.
    if ((error as NodeJS.ErrnoException).code !== 'ERR_REQUIRE_ESM') throw error
    return from(path) as Library
  }
}

const isTable = Symbol.for('apache-arrow/Table')
const isBatch = Symbol.for('apache-arrow/RecordBatch')

/** A Table, or a RecordBatch as one, whichever copy of apache-arrow it is of; undefined for what is none. */
export function tableIn(value: object): Table | undefined {
  const some = value as { [isTable]?: boolean; [isBatch]?: boolean }
  if (some[isTable] === true) return value as Table
  if (some[isBatch] !== true) return undefined
  const batch = value as RecordBatch
  return { schema: batch.schema, batches: [batch] }
}

/** Every buffer of a table. */
export function* buffersOf(table: Table): Generator<TypedArray> {
  for (const batch of table.batches) yield* buffersOfData(batch.data)
}

function* buffersOfData(data: Data): Generator<TypedArray> {
  for (const each of [data.values, data.valueOffsets, data.nullBitmap, ...data.variadicBuffers]) {
    if (each !== undefined) yield each
  }
  for (const child of data.children) yield* buffersOfData(child)
  for (const part of data.dictionary?.data ?? []) yield* buffersOfData(part)
}

// --- how types are called: the format strings of the Arrow C data interface ---------------------------------------

const units = 's m u n'.split(' ')
const dates = ['tdD', 'tdm']
const intervals = ['tiM', 'tiD', 'tin']
const floats = ['e', 'f', 'g']
const integers: Readonly<Record<string, readonly [signed: boolean, bits: number]>> = {
  c: [true, 8],
  C: [false, 8],
  s: [true, 16],
  S: [false, 16],
  i: [true, 32],
  I: [false, 32],
  l: [true, 64],
  L: [false, 64],
}
/** Those that take nothing. */
const simple: Readonly<Record<string, 'Null' | 'Bool' | Exclude<VariableName, 'FixedSizeBinary'>>> = {
  n: 'Null',
  b: 'Bool',
  z: 'Binary',
  Z: 'LargeBinary',
  vz: 'BinaryView',
  u: 'Utf8',
  U: 'LargeUtf8',
  vu: 'Utf8View',
}
/** The numbers of apache-arrow's `Type`, which are those of Arrow's own format. */
const simpleFormats: Readonly<Record<number, string>> = {
  1: 'n',
  4: 'z',
  5: 'u',
  6: 'b',
  12: '+l',
  13: '+s',
  17: '+m',
  19: 'Z',
  20: 'U',
  21: '+L',
  23: 'vz',
  24: 'vu',
}
const NULL = 1
const BOOL = 6
const STRUCT = 13
const FIXED_SIZE_LIST = 16
const DICTIONARY = -1
const views: readonly number[] = [23, 24]
const texts: readonly number[] = [4, 5, 19, 20]
const lists: readonly number[] = [12, 17, 21]
const long: readonly number[] = [19, 20, 21]

function formatOf(type: Type): string | undefined {
  switch (type.typeId) {
    case DICTIONARY:
      return formatOf(type.indices)
    case 2:
      return Object.keys(integers).find(
        key => integers[key]?.[0] === type.isSigned && integers[key]?.[1] === type.bitWidth,
      )
    case 3:
      return floats[type.precision]
    case 7:
      return `d:${type.precision},${type.scale}${type.bitWidth === 128 ? '' : `,${type.bitWidth}`}`
    case 8:
      return dates[type.unit]
    case 9:
      return `tt${units[type.unit]}`
    case 10:
      return `ts${units[type.unit]}:${type.timezone ?? ''}`
    case 11:
      return intervals[type.unit]
    case 15:
      return `w:${type.byteWidth}`
    case FIXED_SIZE_LIST:
      return `+w:${type.listSize}`
    case 18:
      return `tD${units[type.unit]}`
    default:
      return simpleFormats[type.typeId]
  }
}

const NULLABLE = 2
const ORDERED = 1
const SORTED = 4

// --- there ---------------------------------------------------------------------------------------------------------

/** What is wrong with a table, and in which column: the names that lead there. */
export type Complain = (columns: readonly string[], reason: string) => never

/** What a table travels as: its schema, then its batches. `stays` tells buffers that are not copied on the way. */
export function partsOf(table: Table, stays: (view: TypedArray) => boolean, complain: Complain): unknown[] {
  const root = { name: '', nullable: false, metadata: table.schema.metadata }
  const children = table.schema.fields.map(field => schemaOf(field, [field.name], complain))
  const schema = ['+s', ...describe(root, 0), children, null]
  return [schema, ...table.batches.map(batch => rowsOf(batch.data, stays))]
}

function schemaOf(field: Field, path: readonly string[], complain: Complain): unknown[] {
  const { type } = field
  const format = formatOf(type)
  if (format === undefined) return complain(path, `has the Arrow type ${type}, which can't travel`)
  const isDictionary = type.typeId === DICTIONARY
  const flags = (isDictionary && type.isOrdered ? ORDERED : 0) | (type.keysSorted ? SORTED : 0)
  const fields = isDictionary ? [] : (type.children ?? [])
  const children = fields.map(child => schemaOf(child, [...path, child.name], complain))
  const nothing = { name: '', nullable: true, metadata: new Map() }
  const values = isDictionary ? schemaOf({ ...nothing, type: type.dictionary }, path, complain) : null
  return [format, ...describe(field, flags), children, values]
}

function describe({ name, nullable, metadata }: Omit<Field, 'type'>, flags: number): unknown[] {
  return [name, flags | (nullable ? NULLABLE : 0), metadata.size > 0 ? packed(metadata) : null]
}

const nothing = new Uint8Array(0)

type Stays = (view: TypedArray) => boolean

/** No rows of a type. apache-arrow makes such data with buffers and without. */
function noRowsOf(type: Type): unknown[] {
  const id = type.typeId
  const isDictionary = id === DICTIONARY
  const children = isDictionary ? [] : (type.children ?? []).map(child => noRowsOf(child.type))
  const buffers: unknown[] = id === NULL ? [] : [null]
  if (texts.includes(id) || lists.includes(id))
    buffers.push(long.includes(id) ? new BigInt64Array(1) : new Int32Array(1))
  if (id !== NULL && !lists.includes(id) && id !== STRUCT && id !== FIXED_SIZE_LIST) buffers.push(nothing)
  return [0, 0, 0, buffers, children, isDictionary ? noRowsOf(type.dictionary) : null]
}

function rowsOf(data: Data, stays: Stays): unknown[] {
  const { type, length } = data
  const id = type.typeId
  if (length === 0) return noRowsOf(type)
  if (id === NULL) return [length, length, 0, [], [], null]
  const isBool = id === BOOL
  const nullCount = data.nullCount
  const bitmap = nullCount > 0 ? bits(data.nullBitmap as Uint8Array, data, isBool) : null
  const row = (
    lead: number,
    buffers: readonly unknown[],
    children: readonly unknown[] = [],
    values: unknown = null,
  ) => [length, nullCount, lead, [bitmap, ...buffers], children, values]
  if (isBool) return row(data.offset & 7, [bits(data.values as Uint8Array, data, true)])
  if (texts.includes(id)) {
    const { offsets, first, last } = spanOf(data, stays)
    return row(0, [offsets, part(data.values, first, last)])
  }
  if (lists.includes(id)) {
    const { offsets, first, last } = spanOf(data, stays)
    return row(0, [offsets], childrenOf(data, first, last - first, stays))
  }
  if (id === STRUCT || id === FIXED_SIZE_LIST)
    return row(0, [], childrenOf(data, 0, length * data.stride, stays))
  const values = part(data.values, 0, length * data.stride)
  if (views.includes(id)) return row(0, [values, ...data.variadicBuffers])
  if (id !== DICTIONARY) return row(0, [values])
  return row(0, [values], [], rowsOf(onePiece(data.dictionary as Vector, type.dictionary), stays))
}

function childrenOf({ type, children }: Data, begin: number, count: number, stays: Stays): unknown[] {
  return (type.children as readonly Field[]).map((field, i) => {
    const child = children[i]
    if (child === undefined || count === 0) return noRowsOf(field.type)
    return rowsOf(begin === 0 && child.length === count ? child : child.slice(begin, count), stays)
  })
}

function part<T extends TypedArray>(view: T, begin: number, end: number): T {
  return (begin === 0 && end === view.length ? view : view.subarray(begin, end)) as T
}

/** A bitmap from the byte on in which the first row's bit is; from that bit on where `mayLead` says that bits before it are in the way. */
function bits(bitmap: Uint8Array, { offset, length }: Data, mayLead: boolean): Uint8Array {
  const lead = offset & 7
  const begin = offset >> 3
  if (lead === 0 || mayLead) return part(bitmap, begin, begin + ((lead + length + 7) >> 3))
  const moved = new Uint8Array((length + 7) >> 3)
  for (let i = 0; i < moved.length; ++i) {
    moved[i] = ((bitmap[begin + i] as number) >> lead) | ((bitmap[begin + i + 1] ?? 0) << (8 - lead))
  }
  return moved
}

/** Offsets, and what they span. Those that are copied anyway begin at 0 then, so that no more than the span has to travel. */
function spanOf(
  { type, length, valueOffsets }: Data,
  stays: Stays,
): { offsets: TypedArray; first: number; last: number } {
  const isLong = long.includes(type.typeId)
  const offsets = part(valueOffsets, 0, length + 1)
  const first = offsets[0] as number | bigint
  const last = Number(offsets[length])
  if (Number(first) === 0 || stays(offsets)) return { offsets, first: 0, last }
  const moved = isLong
    ? (offsets as BigInt64Array).map(offset => offset - (first as bigint))
    : (offsets as Int32Array).map(offset => offset - (first as number))
  return { offsets: moved, first: Number(first), last }
}

/** The values of a dictionary, which may have come in several pieces. */
function onePiece(values: Vector, type: Type): Data {
  const vector = values.data.length === 1 ? values : arrow().vectorFromArray([...values], type)
  return vector.data[0] as Data
}

// --- and back ------------------------------------------------------------------------------------------------------

type SchemaParts = readonly [
  string,
  string,
  number,
  Uint8Array | null,
  readonly SchemaParts[],
  SchemaParts | null,
]
type RowsParts = readonly [
  length: number,
  nullCount: number,
  lead: number,
  buffers: readonly (TypedArray | null)[],
  children: readonly RowsParts[],
  values: RowsParts | null,
]

/** The Table that travelled as these parts. Its arrays are those among them. */
export function tableOf(parts: readonly unknown[]): Table {
  const lib = arrow()
  const [described, ...batches] = parts as [SchemaParts, ...RowsParts[]]
  const root = typeOf(lib, described)
  const schema = new lib.Schema(root.children, unpacked(described[3]))
  const made = batches.map(batch => new lib.RecordBatch(schema, dataOf(lib, root, batch)))
  // apache-arrow slices no table without a batch.
  if (made.length === 0) {
    const children = root.children?.map(({ type }) => lib.makeData({ type }))
    made.push(new lib.RecordBatch(schema, lib.makeData({ type: root, nullCount: 0, children })))
  }
  return new lib.Table(schema, made)
}

function fieldOf(lib: Library, parts: SchemaParts): Field {
  const [, name, flags, metadata] = parts
  return new lib.Field(name, typeOf(lib, parts), (flags & NULLABLE) !== 0, unpacked(metadata))
}

function typeOf(lib: Library, [format, , flags, , children, dictionary]: SchemaParts): Type {
  if (dictionary !== null) {
    const indices = typeOf(lib, [format, '', 0, null, [], null])
    return new lib.Dictionary(typeOf(lib, dictionary), indices, undefined, (flags & ORDERED) !== 0)
  }
  const known = simple[format]
  if (known !== undefined) return new lib[known]()
  const integer = integers[format]
  if (integer !== undefined) return new lib.Int(...integer)
  if (floats.includes(format)) return new lib.Float(floats.indexOf(format))
  const fields = children.map(child => fieldOf(lib, child))
  const [kind = '', rest = ''] = format.split(/:(.*)/s)
  const numbers = rest.split(',').map(Number)
  switch (kind) {
    case '+s':
      return new lib.Struct(fields)
    case '+l':
      return new lib.List(fields[0])
    case '+L':
      return new lib.LargeList(fields[0])
    case '+w':
      return new lib.FixedSizeList(numbers[0], fields[0])
    case '+m':
      return new lib.Map_(fields[0], (flags & SORTED) !== 0)
    case 'w':
      return new lib.FixedSizeBinary(numbers[0])
    case 'd':
      return new lib.Decimal(numbers[1], numbers[0], numbers[2])
    default:
      return temporal(lib, kind, rest)
  }
}

function temporal(lib: Library, format: string, timezone: string): Type {
  if (dates.includes(format)) return new lib.Date_(dates.indexOf(format))
  if (intervals.includes(format)) return new lib.Interval(intervals.indexOf(format))
  const unit = units.indexOf(format.slice(2))
  if (unit >= 0) {
    if (format.startsWith('tt')) return new lib.Time(unit, unit < 2 ? 32 : 64)
    if (format.startsWith('ts')) return new lib.Timestamp(unit, timezone || null)
    if (format.startsWith('tD')) return new lib.Duration(unit)
  }
  throw new TypeError(`a table has arrived with a column of the unknown type '${format}'`)
}

function dataOf(lib: Library, type: Type, rows: RowsParts): Data {
  const [length, nullCount, lead, [bitmap, ...buffers], children, dictionary] = rows
  const make = (data: {
    values?: TypedArray | null
    valueOffsets?: TypedArray | null
    children?: readonly Data[]
    dictionary?: Vector | undefined
    variadicBuffers?: readonly unknown[]
  }) => {
    const { values, valueOffsets } = data
    const arrays = [valueOffsets ?? undefined, values ?? undefined, bitmap ?? nothing]
    const nulls = bitmap || id === NULL ? nullCount : 0
    return new lib.Data(
      type,
      lead,
      length,
      nulls,
      arrays,
      data.children,
      data.dictionary,
      data.variadicBuffers,
    )
  }
  const id = type.typeId
  if (id === NULL) return make({})
  const from = <T extends TypedArray>(view: T | null | undefined, stride: number, more = 0): T | null =>
    view ? part(view, lead * stride, (lead + length) * stride + more) : null
  if (texts.includes(id)) return make({ valueOffsets: from(buffers[0], 1, 1), values: buffers[1] ?? nothing })
  const fields = type.children ?? []
  if (lists.includes(id)) {
    const child = dataOf(lib, (fields[0] as Field).type, children[0] as RowsParts)
    return make({ valueOffsets: from(buffers[0], 1, 1), children: [child] })
  }
  if (id === STRUCT || id === FIXED_SIZE_LIST) {
    const per = id === STRUCT ? 1 : type.listSize
    const parts = children.map((child, i) => dataOf(lib, (fields[i] as Field).type, child))
    const cut = (child: Data) =>
      lead === 0 && child.length === length * per ? child : child.slice(lead * per, length * per)
    return make({ children: parts.map(cut) })
  }
  if (id === BOOL) return make({ values: buffers[0] ?? nothing })
  const stored = id === DICTIONARY ? type.indices : type
  const values = from(buffers[0], strideOf(stored)) ?? new stored.ArrayType(new ArrayBuffer(0))
  if (views.includes(id)) return make({ values, variadicBuffers: buffers.slice(1) })
  if (id !== DICTIONARY) return make({ values })
  const known = new lib.Vector([dataOf(lib, type.dictionary, dictionary as RowsParts)]).memoize()
  return make({ values, dictionary: known })
}

/** How many elements of its array a value takes. */
function strideOf(type: Type): number {
  if (views.includes(type.typeId)) return 16
  if (type.typeId === 7) return type.bitWidth / 32
  if (type.typeId === 15) return type.byteWidth
  return type.typeId === 11 ? ([1, 2, 4][type.unit] as number) : 1
}

// --- metadata: the number of pairs, then the length of each text and its UTF-8 -----------------------------------------

function packed(metadata: ReadonlyMap<string, string>): Uint8Array {
  const texts = [...metadata].flat().map(text => Buffer.from(text))
  const length = (bytes: number) => {
    const four = Buffer.alloc(4)
    four.writeInt32LE(bytes)
    return four
  }
  const all = Buffer.concat([length(metadata.size), ...texts.flatMap(text => [length(text.length), text])])
  return new Uint8Array(all.buffer, all.byteOffset, all.length)
}

function unpacked(bytes: Uint8Array | null): Map<string, string> {
  const metadata = new Map<string, string>()
  if (bytes === null) return metadata
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let at = 4
  const text = () => {
    const begin = at + 4
    const length = buffer.readInt32LE(at)
    if (length < 0 || begin + length > buffer.length) throw new RangeError("a table's metadata is torn")
    at = begin + length
    return buffer.toString('utf8', begin, at)
  }
  for (let left = buffer.readInt32LE(0); left > 0; --left) {
    const key = text()
    metadata.set(key, text())
  }
  return metadata
}
