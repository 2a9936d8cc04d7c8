// The element types: what numpy calls them, and the typed arrays that hold them.

import { constants, type NativeDType } from './native.js'

/** Any typed array. */
export type TypedArray =
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array

/** The constructor of a typed array. */
export interface TypedArrayConstructor<T extends TypedArray = TypedArray> {
  new (buffer: ArrayBufferLike, byteOffset?: number, length?: number): T
  readonly name: string
  readonly BYTES_PER_ELEMENT: number
}

/** The name of an element type, as numpy has it. */
export type DType =
  | 'bool'
  | 'int8'
  | 'uint8'
  | 'int16'
  | 'uint16'
  | 'int32'
  | 'uint32'
  | 'int64'
  | 'uint64'
  | 'float16'
  | 'float32'
  | 'float64'
  | 'complex64'
  | 'complex128'

/** How the elements of one dtype are held in JavaScript. */
export interface Elements {
  readonly code: number
  readonly name: DType
  readonly Type: TypedArrayConstructor
  /** Numbers of `Type` for one element: 2 for complex ones. */
  readonly per: number
  /** Whether `Type` tells the dtype, so that a 1-D array needs no NDArray around it. */
  readonly native: boolean
}

const { dtypes } = constants

const Float16 = (globalThis as { Float16Array?: TypedArrayConstructor }).Float16Array

const table: readonly [NativeDType, DType, TypedArrayConstructor, number, boolean][] = [
  ['boolean', 'bool', Uint8Array, 1, false],
  ['int8', 'int8', Int8Array, 1, true],
  ['uint8', 'uint8', Uint8Array, 1, true],
  ['int16', 'int16', Int16Array, 1, true],
  ['uint16', 'uint16', Uint16Array, 1, true],
  ['int32', 'int32', Int32Array, 1, true],
  ['uint32', 'uint32', Uint32Array, 1, true],
  ['int64', 'int64', BigInt64Array, 1, true],
  ['uint64', 'uint64', BigUint64Array, 1, true],
  ['float16', 'float16', Float16 ?? Uint16Array, 1, Float16 !== undefined],
  ['float32', 'float32', Float32Array, 1, true],
  ['float64', 'float64', Float64Array, 1, true],
  ['complex64', 'complex64', Float32Array, 2, false],
  ['complex128', 'complex128', Float64Array, 2, false],
  ['clamped8', 'uint8', Uint8ClampedArray, 1, true],
]

/** By the native number of the dtype. */
export const elementsOf: readonly (Elements | undefined)[] = (() => {
  const byCode: Elements[] = []
  for (const [key, name, Type, per, own] of table) {
    byCode[dtypes[key]] = { code: dtypes[key], name, Type, per, native: own }
  }
  return byCode
})()

/** By the name of the typed array's class. */
const byClass = new Map(table.filter(row => row[4]).map(row => [row[2].name, elementsOf[dtypes[row[0]]]]))
/** By its name, as numpy has it. */
export const byName = new Map(
  table.filter(row => row[0] !== 'clamped8').map(row => [row[1] as string, elementsOf[dtypes[row[0]]]]),
)

/** How many elements an array of a shape has. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, 1)
}

/** How the elements of a typed array's class travel. */
export function elementsOfClass(Type: TypedArrayConstructor): Elements | undefined {
  return byClass.get(Type?.name)
}

const tagOf = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype), Symbol.toStringTag)
  ?.get as (this: unknown) => string | undefined

/** How a typed array's elements travel; undefined for what is no typed array of a known kind. */
export function elementsOfView(view: unknown): Elements | undefined {
  return byClass.get(tagOf.call(view) ?? '')
}
