// One worker_thread: decodes its photographs into bus memory, has Python work on them, writes PNGs.

import { join } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import { connect, NDArray } from 'isthmus'
import sharp from 'sharp'

const { bus, photos, treatments, out, size, tile, inFlight, progress } = workerData
const py = await connect(bus)
const pictures = []

sharp.concurrency(1)

// sharp decodes into memory of its own and takes no other: one write brings the pixels onto the bus
async function decode(photo) {
  const { data, info } = await sharp(photo.path)
    .resize({ width: size, height: size, fit: 'inside', withoutEnlargement: true })
    .removeAlpha()
    .toColourspace('srgb')
    .raw()
    .toBuffer({ resolveWithObject: true })
  const pixels = py.allocUnsafe(Uint8Array, data.length)
  pixels.set(data)
  return new NDArray(pixels, [info.height, info.width, info.channels])
}

function writePng(name, data, [height, width, channels = 1]) {
  return sharp(data, { raw: { width, height, channels } }).png().toFile(join(out, name))
}

async function treat(photo, pixels, treatment) {
  const result = await py.call(treatment, [pixels])
  await writePng(`${photo.name}-${treatment}.png`, result.data, result.shape)
  const bytes = result.data.byteLength
  py.release(result)
  return bytes
}

async function wholePhotographs() {
  let lent = 0
  let returned = 0
  for (const photo of photos) {
    const pixels = await decode(photo)
    pictures.push({ photo, pixels })
    const bytes = await Promise.all(treatments.map(treatment => treat(photo, pixels, treatment)))
    const [height, width] = pixels.shape
    lent += bytes.length * pixels.data.byteLength
    returned += bytes.reduce((a, b) => a + b)
    parentPort.postMessage({ photo: { ...photo, width, height } })
  }
  const decoded = pictures.reduce((sum, { pixels }) => sum + pixels.data.byteLength, 0)
  return { calls: photos.length * treatments.length, lent, returned, decoded }
}

// Tiles overlap by half. Each lane awaits one call at a time; together they keep inFlight calls under way.
async function spreads(pixels) {
  const step = Math.max(1, tile >> 1)
  const [height, width] = pixels.shape
  const columns = Math.floor((width - tile) / step) + 1
  const rows = Math.floor((height - tile) / step) + 1
  const found = new Uint8Array(columns * rows)
  let next = 0
  const lane = async () => {
    while (next < found.length) {
      const i = next++
      const left = (i % columns) * step
      const top = Math.floor(i / columns) * step
      found[i] = await py.call('spread', [pixels, left, top, tile])
      Atomics.add(progress, 0, 1)
    }
  }
  await Promise.all(Array.from({ length: inFlight }, lane))
  return { found, columns, rows }
}

const heat = [
  [8, 6, 24],
  [87, 16, 110],
  [188, 55, 84],
  [249, 142, 9],
  [252, 255, 164],
]

function paint(values) {
  const top = values.reduce((a, b) => Math.max(a, b), 1)
  const pixels = new Uint8Array(values.length * 3)
  values.forEach((value, i) => {
    const at = (value / top) * (heat.length - 1)
    const low = Math.min(Math.floor(at), heat.length - 2)
    pixels.set(
      heat[low].map((from, c) => from + (heat[low + 1][c] - from) * (at - low)),
      i * 3,
    )
  })
  return pixels
}

async function smallTiles() {
  for (const picture of pictures) picture.map = await spreads(picture.pixels)
  return { calls: pictures.reduce((sum, { map }) => sum + map.found.length, 0) }
}

async function writeMaps() {
  for (const { photo, pixels, map } of pictures) {
    const [height, width] = pixels.shape
    await sharp(paint(map.found), { raw: { width: map.columns, height: map.rows, channels: 3 } })
      .resize({ width, height, fit: 'fill', kernel: 'nearest' })
      .png()
      .toFile(join(out, `${photo.name}-detail.png`))
    py.release(pixels)
  }
  await py.close()
}

async function measured(work) {
  const before = await py.stats()
  const done = await work()
  const after = await py.stats()
  return { ...done, copied: after.self.bytes_copied - before.self.bytes_copied }
}

const steps = {
  photographs: () => measured(wholePhotographs),
  tiles: () => measured(smallTiles),
  maps: writeMaps,
}

parentPort.on('message', async step => {
  parentPort.postMessage({ step, done: await steps[step]() })
  if (step === 'maps') parentPort.close()
})
