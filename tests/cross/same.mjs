// Equality as the values table means it: kinds and types count, -0 is not 0, NaN is NaN.

import { NDArray } from 'isthmus'

const kindOf = value => {
  if (value === null) return 'null'
  if (typeof value !== 'object') return typeof value
  if (Array.isArray(value)) return 'Array'
  if (value instanceof NDArray) return 'NDArray'
  const prototype = Object.getPrototypeOf(value)
  return prototype === null || prototype === Object.prototype ? 'object' : prototype.constructor.name
}

const show = value => {
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value)
  if (typeof value === 'bigint') return value.toString().length > 60 ? 'a long bigint' : `${value}n`
  if (Object.is(value, -0)) return '-0'
  return typeof value === 'symbol' ? value.toString() : `${value}`
}

/** Where two values differ first, in words; null when they are the same. */
export function difference(actual, expected, path = 'value') {
  const kind = kindOf(expected)
  if (kindOf(actual) !== kind) return `${path} is a ${kindOf(actual)} instead of a ${kind}`
  const inside = (a, e, step) => difference(a, e, path + step)
  if (kind === 'NDArray') {
    return (
      inside(actual.dtype, expected.dtype, '.dtype') ??
      inside(actual.shape, expected.shape, '.shape') ??
      inside(inOrder(actual), inOrder(expected), '.data')
    )
  }
  if (ArrayBuffer.isView(expected) && Buffer.compare(bytesOf(actual), bytesOf(expected)) === 0) return null
  if (kind === 'Array' || ArrayBuffer.isView(expected)) {
    if (actual.length !== expected.length)
      return `${path}.length is ${actual.length} instead of ${expected.length}`
    for (let i = 0; i < expected.length; i++) {
      if (Object.is(actual[i], expected[i])) continue
      const found = inside(actual[i], expected[i], `[${i}]`)
      if (found) return found
    }
    return null
  }
  if (kind === 'Map') {
    return (
      inside([...actual.keys()], [...expected.keys()], '.keys') ??
      inside([...actual.values()], [...expected.values()], '.values')
    )
  }
  if (kind === 'Set') return sameMembers(actual, expected, path)
  if (kind === 'Date') return inside(actual.getTime(), expected.getTime(), '.getTime()')
  if (kind === 'object') {
    return (
      inside(Reflect.ownKeys(actual), Reflect.ownKeys(expected), '.keys') ??
      Reflect.ownKeys(expected).reduce(
        (found, key) => found ?? inside(own(actual, key), own(expected, key), `.${key}`),
        null,
      )
    )
  }
  return Object.is(actual, expected) ? null : `${path} is ${show(actual)} instead of ${show(expected)}`
}

const bytesOf = ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength)

const own = (object, key) => Object.getOwnPropertyDescriptor(object, key).value

/** The elements as a C array has them. */
function inOrder({ data, shape, order }) {
  if (order === 'C') return data
  const strides = shape.map((_, i) => shape.slice(0, i).reduce((product, n) => product * n, 1))
  return data.map((_, i) => {
    let at = 0
    for (let k = shape.length - 1, rest = i; k >= 0; rest = Math.floor(rest / shape[k--]))
      at += (rest % shape[k]) * strides[k]
    return data[at]
  })
}

// Python's sets have no order
function sameMembers(actual, expected, path) {
  if (actual.size !== expected.size) return `${path}.size is ${actual.size} instead of ${expected.size}`
  const left = [...actual]
  for (const member of expected) {
    const at = left.findIndex(other => difference(other, member) === null)
    if (at < 0) return `${path} lacks ${show(member)}`
    left.splice(at, 1)
  }
  return null
}
