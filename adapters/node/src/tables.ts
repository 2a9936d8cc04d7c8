// Tables of apache-arrow: the values that they travel as (docs/protocol.md, Tables), and back.

import {
  arrow,
  BOOL,
  type Data,
  DICTIONARY,
  FIXED_SIZE_LIST,
  type Field,
  type Library,
  NULL,
  STRUCT,
  type Table,
  type Type,
  type Vector,
} from './arrow.js'
import type { TypedArray } from './dtypes.js'
import { type Complain, describeSchema, type SchemaParts, schemaFrom } from './schemas.js'

// Types that lie alike, by their numbers.
const views: readonly number[] = [23, 24]
const texts: readonly number[] = [4, 5, 19, 20]
const lists: readonly number[] = [12, 17, 21]
const long: readonly number[] = [19, 20, 21]

// --- there ---------------------------------------------------------------------------------------------------------

/** What a table travels as: its schema, then its batches. `stays` tells buffers that are not copied on the way. */
export function partsOf(table: Table, stays: Stays, complain: Complain): unknown[] {
  return [describeSchema(table.schema, complain), ...table.batches.map(batch => rowsOf(batch.data, stays))]
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
  const { schema, root } = schemaFrom(lib, described)
  const made = batches.map(batch => new lib.RecordBatch(schema, dataOf(lib, root, batch)))
  // apache-arrow slices no table without a batch.
  if (made.length === 0) {
    const children = root.children?.map(({ type }) => lib.makeData({ type }))
    made.push(new lib.RecordBatch(schema, lib.makeData({ type: root, nullCount: 0, children })))
  }
  return new lib.Table(schema, made)
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
