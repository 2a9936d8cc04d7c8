// What the isolates and the hosts of the soak agree on: arrays that carry a checksum, and chance with a seed.

import { crc32 } from 'node:zlib'
import { NDArray } from 'isthmus'

const noise = Buffer.alloc(1 << 20)
{
  const next = chance(1)
  for (let i = 0; i < noise.length; i += 4) noise.writeUInt32LE(next(2 ** 32), i)
}

/** next(n): a whole number from 0 on, below n. The same seed, the same numbers. */
export function chance(seed) {
  let state = seed >>> 0
  return below => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below)
  }
}

/** The element types that arrays are made of: as numpy calls them, and how many numbers of the typed array one element has. */
export const kinds = [
  [Uint8Array, 'uint8', 1],
  [Int16Array, 'int16', 1],
  [Uint32Array, 'uint32', 1],
  [Float32Array, 'float32', 1],
  [Float64Array, 'float64', 1],
  [BigInt64Array, 'int64', 1],
  [BigUint64Array, 'uint64', 1],
  [Uint8Array, 'bool', 1],
  [Float64Array, 'complex128', 2],
  [BigInt64Array, '<M8[ns]', 1],
  [Uint8Array, '|S16', 16],
]

const bytesOf = array => {
  const { buffer, byteOffset, byteLength } = array instanceof NDArray ? array.data : array
  return Buffer.from(buffer, byteOffset, byteLength)
}

/** Fills an array: in front of the noise its checksum and its length. */
export function stamp(array, next) {
  const bytes = bytesOf(array)
  for (let at = 8; at < bytes.length; ) {
    const from = next(4096)
    at += noise.copy(bytes, at, from, Math.min(noise.length, from + bytes.length - at))
  }
  bytes.writeUInt32LE(crc32(bytes.subarray(8)), 0)
  bytes.writeUInt32LE(bytes.length - 8, 4)
  return array
}

export function verify(array, who) {
  const bytes = bytesOf(array)
  if (
    bytes.length < 16 ||
    bytes.readUInt32LE(4) !== bytes.length - 8 ||
    bytes.readUInt32LE(0) !== crc32(bytes.subarray(8))
  ) {
    throw new WrongBytes(`${who} found wrong bytes in ${bytes.length}: ${bytes.toString('hex', 0, 32)}`)
  }
  return array
}

export class WrongBytes extends Error {}
