// Decodes each photograph in three sizes, into the memory of the bus.

import { connect, NDArray, release } from 'isthmus'
import sharp from 'sharp'

const sizes = [512, 256, 128]

const bus = await connect()
const frames = bus.queue('frames', { depth: 12, deliveries: 100 })

async function decode(path, size) {
  const { data, info } = await sharp(path)
    .resize({ width: size, height: size, fit: 'inside' })
    .removeAlpha()
    .toColourspace('srgb')
    .raw()
    .toBuffer({ resolveWithObject: true })
  const pixels = bus.allocUnsafe(Uint8Array, data.length)
  pixels.set(data) // sharp decodes into memory of its own: the only copy that is made
  return new NDArray(pixels, [info.height, info.width, info.channels])
}

for await (const job of bus.queue('jobs')) {
  const { name, path } = job.value
  for (const [part, size] of sizes.entries()) {
    const frame = await decode(path, size)
    await frames.put({ name, part, parts: sizes.length, frame })
    release(frame)
  }
  job.ack()
}
