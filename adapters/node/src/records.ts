// What an element is: of each dtype, and of types that numpy writes as codes and JavaScript has no typed array for.

import { byName, type DType, type Elements, sizeOf } from './dtypes.js'

/** How elements lie in a typed array, and what one of them is. */
export interface Item extends Elements {
  read(data: ArrayLike<number | bigint>, position: number): never
}

interface Field {
  readonly name: string
  readonly type: string
  readonly shape: readonly number[]
  readonly offset: number
}

/** The fields of a record, and its size. */
export interface RecordType {
  readonly fields: readonly Field[]
  readonly itemBytes: number
}

const items = new Map<string, Item>()

/** @throws TypeError for what is no dtype. */
export function itemOf(dtype: string): Item {
  let item = items.get(dtype)
  if (item === undefined) {
    item = makeItem(dtype)
    if (items.size < 1000) items.set(dtype, item)
  }
  return item
}

type Read = (data: never, position: number) => unknown

function makeItem(dtype: string): Item {
  const plain = byName.get(dtype as DType)
  if (plain !== undefined) return { ...plain, read: readOf(plain) as Item['read'] }
  const record = recordOf(dtype)
  if (record !== undefined) return coded(dtype, Uint8Array, record.itemBytes, recordReader(record))
  const [, order, kind, digits, unit] = /^([<>|=]?)([a-zA-Z])(\d*)(\[[^\]]*\])?$/.exec(dtype) ?? []
  const size = Number(digits)
  if ((kind === 'M' || kind === 'm') && size === 8 && order !== '>') {
    return coded(dtype, BigInt64Array, 1, (data: BigInt64Array, i) => data[i])
  }
  if (order !== '>' && unit === undefined) {
    if (kind === 'S' && digits) return coded(dtype, Uint8Array, size, readBytes(size))
    if (kind === 'U' && digits) return coded(dtype, Uint8Array, 4 * size, readText(4 * size))
    if (kind === 'V' && digits) {
      return coded(dtype, Uint8Array, size, (data: Uint8Array, i) => data.slice(i * size, (i + 1) * size))
    }
    const known = numbers[`${kind}${digits}`]
    if (known !== undefined) return itemOf(known)
  }
  throw new TypeError(`'${dtype}' is no dtype`)
}

function coded(name: string, Type: unknown, per: number, read: Read): Item {
  return {
    code: 0,
    name: name as DType,
    Type: Type as Elements['Type'],
    per,
    native: false,
    read: read as Item['read'],
  }
}

// numpy's codes of the types that have names.
const numbers: Readonly<Record<string, DType>> = {
  b1: 'bool',
  i1: 'int8',
  u1: 'uint8',
  i2: 'int16',
  u2: 'uint16',
  i4: 'int32',
  u4: 'uint32',
  i8: 'int64',
  u8: 'uint64',
  f2: 'float16',
  f4: 'float32',
  f8: 'float64',
  c8: 'complex64',
  c16: 'complex128',
}

function readOf({ name, per }: Elements): Read {
  if (per === 2) return (data: Float64Array, i) => ({ re: data[2 * i], im: data[2 * i + 1] })
  if (name === 'bool') return (data: Uint8Array, i) => data[i] !== 0
  return (data: Float64Array, i) => data[i]
}

function readBytes(size: number): Read {
  return (data: Uint8Array, i) => {
    let end = (i + 1) * size
    while (end > i * size && data[end - 1] === 0) --end
    return data.slice(i * size, end)
  }
}

function readText(bytes: number): Read {
  return (data: Uint8Array, i) => {
    let text = ''
    for (let at = i * bytes; at < (i + 1) * bytes; at += 4) {
      const point = (data[at] as number) | ((data[at + 1] as number) << 8) | ((data[at + 2] as number) << 16)
      if (point > 0x10ffff) throw new RangeError(`${point} is no code point`)
      text += String.fromCodePoint(point)
    }
    return text.replace(/\0+$/, '')
  }
}

/** The type of records, from what numpy calls its descr, in JSON; undefined for what is none. */
export function recordOf(dtype: string): RecordType | undefined {
  if (!dtype.startsWith('[')) return undefined
  const fields: Field[] = []
  let offset = 0
  for (const [name, type, shape = []] of JSON.parse(dtype) as [string, unknown, number[]?][]) {
    const code = typeof type === 'string' ? type : JSON.stringify(type)
    const item = itemOf(code)
    fields.push({ name, type: code, shape, offset })
    const count = sizeOf(shape)
    offset += count * item.per * item.Type.BYTES_PER_ELEMENT
  }
  return { fields: fields.filter(field => field.name !== ''), itemBytes: offset }
}

function recordReader({ fields, itemBytes }: RecordType): Read {
  return (data: Uint8Array, i) => {
    const record: Record<string, unknown> = {}
    for (const { name, type, shape, offset } of fields) {
      const item = itemOf(type)
      const count = sizeOf(shape)
      const bytes = count * item.per * item.Type.BYTES_PER_ELEMENT
      const copy = data.slice(i * itemBytes + offset, i * itemBytes + offset + bytes)
      const numbers = new item.Type(copy.buffer, 0, count * item.per)
      const value =
        shape.length === 0
          ? item.read(numbers, 0)
          : Array.from({ length: count }, (_, n) => item.read(numbers, n))
      Object.defineProperty(record, name, { value, enumerable: true, writable: true, configurable: true })
    }
    return record
  }
}
