// What a frame holds, so that each stage can tell whether it is the right one: a few places in it depend on its number.

export const frames = 10_000
export const frameBytes = 1 << 20
/** A message may meet many processes that are killed. */
export const deliveries = 1000

const places = [0, 4096, 65_537, 524_288, frameBytes - 1]

export function fill(frame, number) {
  for (const [i, at] of places.entries()) frame[at] = number * (2 * i + 3) + i
}

export function checksum(frame) {
  return places.reduce((sum, at, i) => sum + frame[at] * (i + 1), 0)
}

export function expected(number) {
  return places.reduce((sum, _, i) => sum + ((number * (2 * i + 3) + i) % 256) * (i + 1), 0)
}

/** The results: one record of so many bytes for each frame, at the place that its number gives. */
export const recordBytes = 16

export function record(number, sum, copied) {
  const bytes = Buffer.alloc(recordBytes)
  bytes.writeUInt32LE(number + 1, 0) // 0: there is none yet
  bytes.writeUInt32LE(sum, 4)
  bytes.writeDoubleLE(copied, 8)
  return bytes
}

export function readRecord(bytes, at) {
  const offset = at * recordBytes
  return {
    number: bytes.readUInt32LE(offset) - 1,
    sum: bytes.readUInt32LE(offset + 4),
    copied: bytes.readDoubleLE(offset + 8),
  }
}
