// Real photographs, several worker_threads, one Python host: node examples/photos/main.mjs --help

import { mkdir, rm, rmdir } from 'node:fs/promises'
import { join, relative, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { spawn } from 'isthmus'
import { writeContactSheet } from './sheet.mjs' // sharp wants to be loaded here before it is in a worker

const here = import.meta.dirname
const help = `node examples/photos/main.mjs [options]

Decodes photographs with sharp in several worker_threads, has one Python host work on them with
scikit-image, first whole and then tile by tile, and writes the results and a contact sheet as PNG.

  --workers N     worker_threads that call Python                      (4)
  --in-flight N   calls that each worker keeps under way, tile by tile (1000)
  --tile N        side of a tile, in pixels                            (8)
  --size N        longer side of a photograph, in pixels, at most      (720)
  --out DIR       where the pictures go                                (examples/photos/out)
  --help          this page`

const treatments = {
  contrast: { title: 'local contrast', subtitle: 'exposure.equalize_adapthist' },
  denoised: { title: 'denoised', subtitle: 'restoration.denoise_tv_chambolle' },
  segments: { title: 'segments', subtitle: 'segmentation.slic' },
  edges: { title: 'edges', subtitle: 'gaussian_gradient_magnitude' },
}

function readOptions() {
  const text = value => ({ type: 'string', default: value })
  const { values } = parseArgs({
    options: {
      workers: text('4'),
      'in-flight': text('1000'),
      tile: text('8'),
      size: text('720'),
      out: text(join(here, 'out')),
      help: { type: 'boolean', default: false },
    },
  })
  const whole = (name, low, high) => {
    const n = Number(values[name])
    if (Number.isInteger(n) && n >= low && n <= high) return n
    throw new RangeError(`--${name} takes a whole number from ${low} to ${high}, not '${values[name]}'`)
  }
  return {
    help: values.help,
    workers: whole('workers', 1, 32),
    inFlight: whole('in-flight', 1, 100_000),
    tile: whole('tile', 2, 64),
    size: whole('size', 64, 4096),
    out: resolve(values.out),
  }
}

const number = (n, digits = 0) =>
  n.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits })
const seconds = since => (performance.now() - since) / 1000

// What is open, the newest last, and how each is closed
const open = []
async function closeAll() {
  while (open.length > 0) await open.pop()()
}

function startWorkers(photos, { workers, ...settings }) {
  const shares = Array.from({ length: Math.min(workers, photos.length) }, () => [])
  for (const [i, photo] of photos.entries()) shares[i % shares.length].push(photo)
  return shares.map(share => {
    const worker = new Worker(join(here, 'worker.mjs'), { workerData: { ...settings, photos: share } })
    open.push(() => worker.terminate())
    return worker
  })
}

/** Has a worker do one step, and resolves to what it has done. */
function run(worker, step, onPhoto) {
  return new Promise((resolve, reject) => {
    const listeners = {
      message: ({ photo, done }) => {
        if (photo) return onPhoto(photo)
        for (const [event, listener] of Object.entries(listeners)) worker.off(event, listener)
        resolve(done)
      },
      error: reject,
      exit: code => reject(new Error(`a worker ended with code ${code}`)),
    }
    for (const [event, listener] of Object.entries(listeners)) worker.on(event, listener)
    worker.postMessage(step)
  })
}

/** Has all workers do one step; the figures are theirs added up, and the host's own over that time. */
async function measure(py, workers, step, onPhoto) {
  const before = (await py.stats()).host
  const started = performance.now()
  const done = await Promise.all(workers.map(worker => run(worker, step, onPhoto)))
  const took = seconds(started)
  const after = (await py.stats()).host
  const figures = { seconds: took, copied: after.bytes_copied - before.bytes_copied }
  for (const each of done) {
    for (const [name, value] of Object.entries(each)) figures[name] = (figures[name] ?? 0) + value
  }
  const perCall = counter => (after[counter] - before[counter]) / (after.calls - before.calls)
  return { ...figures, batch: 1 / perCall('batches'), takes: perCall('gil_takes'), wakes: perCall('wakes') }
}

function printFigures(whole, tiles, { tile, inFlight }) {
  const row = (name, ...cells) => console.log(`  ${name.padEnd(34)}`, ...cells.map(text => text.padStart(18)))
  const both = (name, value) => row(name, value(whole), value(tiles))
  console.log()
  row('', 'whole photographs', `${tile}x${tile} tiles`)
  both('calls', f => number(f.calls))
  both('seconds', f => number(f.seconds, 2))
  both('calls per second', f => number(f.calls / f.seconds, f.calls / f.seconds < 100 ? 1 : 0))
  both('calls in a batch, on average', f => number(f.batch, 1))
  both('GIL takes per call', f => number(f.takes, 4))
  both('wakes of the host per call', f => number(f.wakes, 4))
  both('bytes copied for the hand-off', f => number(f.copied))
  console.log(`
  Whole photographs: ${number(whole.lent)} bytes of pixels lent to Python, ${number(whole.returned)} bytes back.
  Before that, ${number(whole.decoded)} decoded bytes were written into bus memory, once: sharp decodes
  into memory of its own. Tiles: ${number(inFlight)} calls in flight in each worker.`)
}

const sheetName = 'contact-sheet.png'
const resultsOf = name => [...Object.keys(treatments), 'detail'].map(result => `${name}-${result}.png`)

async function contactSheet(py, photos, sizes, { out, workers }) {
  const file = join(out, sheetName)
  const library = await py.call('library')
  await writeContactSheet(file, {
    title: `${photos.length} photographs across the isthmus`,
    subtitle: `decoded by sharp in ${workers} worker threads, worked on by ${library} in one Python host`,
    columns: [
      { title: 'original', subtitle: 'from the wheel of scikit-image' },
      ...Object.values(treatments),
      { title: 'detail', subtitle: 'one call for each small tile' },
    ],
    rows: photos.map(({ name, path, credit }) => ({
      title: name,
      subtitle: `${sizes[name]}   ${credit}`,
      files: [path, ...resultsOf(name).map(result => join(out, result))],
    })),
    label: (...args) => py.call('label', args),
  })
  return file
}

async function main(options) {
  const started = performance.now()
  const say = text => console.log(`${seconds(started).toFixed(1).padStart(6)} s  ${text}`)
  const bus = `photos-${process.pid}`
  const py = await spawn(join(here, 'app.py'), { bus })
  open.push(() => py.close())

  const photos = await py.call('photographs')
  const missing = await mkdir(options.out, { recursive: true })
  let complete = false
  open.push(async () => {
    if (complete) return
    const results = [...photos.flatMap(({ name }) => resultsOf(name)), sheetName]
    await Promise.all(results.map(result => rm(join(options.out, result), { force: true })))
    if (missing) await rmdir(options.out).catch(() => {})
  })

  const names = Object.keys(treatments)
  const progress = new Int32Array(new SharedArrayBuffer(4))
  const workers = startWorkers(photos, { ...options, bus, progress, treatments: names })
  say(`${photos.length} photographs, ${workers.length} worker threads, one Python host`)

  const sizes = {}
  let finished = 0
  const whole = await measure(py, workers, 'photographs', ({ name, width, height }) => {
    sizes[name] = `${width} x ${height}`
    say(`${`${++finished}`.padStart(2)} of ${photos.length}  ${name} (${sizes[name]}): ${names.join(', ')}`)
  })

  const ticking = setInterval(() => say(`${number(Atomics.load(progress, 0))} tiles`), 1000).unref()
  const tiles = await measure(py, workers, 'tiles')
  clearInterval(ticking)
  say(`${number(tiles.calls)} tiles`)

  await Promise.all(workers.map(worker => run(worker, 'maps')))
  const file = await contactSheet(py, photos, sizes, { out: options.out, workers: workers.length })
  complete = true
  await closeAll()
  printFigures(whole, tiles, options)
  console.log(`\n  Contact sheet: ${relative(process.cwd(), file)}`)
}

let stopping = false
function stopOn(signal, code) {
  process.once(signal, async () => {
    stopping = true
    console.error(`\n${signal}: stopping, and removing what is not complete`)
    await closeAll()
    process.exit(code)
  })
}

async function begin() {
  let options
  try {
    options = readOptions()
  } catch (error) {
    console.error(`photos: ${error.message} (see --help)`)
    process.exitCode = 2
    return
  }
  if (options.help) return console.log(help)
  stopOn('SIGINT', 130)
  stopOn('SIGTERM', 143)
  try {
    await main(options)
  } catch (error) {
    if (stopping) return
    console.error(error)
    process.exitCode = 1
    await closeAll()
  }
}

await begin()
