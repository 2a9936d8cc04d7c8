// Schemas of tables: the values that they travel as (docs/protocol.md, Tables), and back. Types are called by the format strings of
// the Arrow C data interface.

import {
  DICTIONARY,
  FIXED_SIZE_LIST,
  type Field,
  type Library,
  type Schema,
  type Type,
  type VariableName,
} from './arrow.js'

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
/** By the number of a type. */
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

const NULLABLE = 2
const ORDERED = 1
const SORTED = 4

// --- there ---------------------------------------------------------------------------------------------------------

/** What is wrong with a table, and in which column: the names that lead there. */
export type Complain = (columns: readonly string[], reason: string) => never

/** What a schema travels as. */
export function describeSchema({ metadata, fields }: Schema, complain: Complain): unknown[] {
  const root = { name: '', nullable: false, metadata }
  const children = fields.map(field => describeField(field, [field.name], complain))
  return ['+s', ...describe(root, 0), children, null]
}

function describeField(field: Field, path: readonly string[], complain: Complain): unknown[] {
  const { type } = field
  const format = formatOf(type)
  if (format === undefined) return complain(path, `has the Arrow type ${type}, which can't travel`)
  const isDictionary = type.typeId === DICTIONARY
  const flags = (isDictionary && type.isOrdered ? ORDERED : 0) | (type.keysSorted ? SORTED : 0)
  const fields = isDictionary ? [] : (type.children ?? [])
  const children = fields.map(child => describeField(child, [...path, child.name], complain))
  const nothing = { name: '', nullable: true, metadata: new Map() }
  const values = isDictionary ? describeField({ ...nothing, type: type.dictionary }, path, complain) : null
  return [format, ...describe(field, flags), children, values]
}

function describe({ name, nullable, metadata }: Omit<Field, 'type'>, flags: number): unknown[] {
  return [name, flags | (nullable ? NULLABLE : 0), metadata.size > 0 ? packed(metadata) : null]
}

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

// --- and back ------------------------------------------------------------------------------------------------------

/** What has arrived of a schema, or of a field. */
export type SchemaParts = readonly [
  string,
  string,
  number,
  Uint8Array | null,
  readonly SchemaParts[],
  SchemaParts | null,
]

/** The schema that travelled as these parts, and the type of a batch of its rows. */
export function schemaFrom(lib: Library, parts: SchemaParts): { schema: Schema; root: Type } {
  const root = typeOf(lib, parts)
  return { schema: new lib.Schema(root.children, unpacked(parts[3])), root }
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
