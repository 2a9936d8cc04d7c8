// The part of apache-arrow that tables need: the classes, and the copy of the package that the program has.

import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { TypedArray, TypedArrayConstructor } from './dtypes.js'
import { IsthmusError } from './errors.js'

// What is used of apache-arrow. The package is not needed, so its types are not either.

export interface Type {
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

export interface Field {
  readonly name: string
  readonly type: Type
  readonly nullable: boolean
  readonly metadata: ReadonlyMap<string, string>
}

export interface Data {
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

export interface Vector extends Iterable<unknown> {
  readonly data: readonly Data[]
  memoize(): Vector
}

export interface RecordBatch {
  readonly schema: Schema
  readonly data: Data
}

export interface Schema {
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
export type VariableName =
  | 'Utf8'
  | 'LargeUtf8'
  | 'Utf8View'
  | 'Binary'
  | 'LargeBinary'
  | 'BinaryView'
  | 'FixedSizeBinary'
type NestedName = 'List' | 'LargeList' | 'FixedSizeList' | 'Struct' | 'Map_' | 'Dictionary'

export interface Library extends Record<TypeName | VariableName | NestedName, Class<Type>> {
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

// The numbers of apache-arrow's `Type`, which are those of Arrow's own format.
export const NULL = 1
export const BOOL = 6
export const STRUCT = 13
export const FIXED_SIZE_LIST = 16
export const DICTIONARY = -1
