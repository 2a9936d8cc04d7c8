// buffers.mjs MEMORY BYTES: the main isolate and a worker have two arrays of so many bytes each go to Python and back, on a bus with
// so much memory. Prints as JSON what was seen, or the error that says why it can't be.

import { readFileSync } from 'node:fs'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { connect, release, spawn } from 'isthmus'
import { until } from './lib.mjs'

async function play(py, bytes) {
  const arrays = [py.alloc(Uint8Array, bytes), py.alloc(Uint8Array, bytes)]
  const seen = []
  for (const [i, array] of arrays.entries()) {
    array[0] = 10 + i
    array[bytes - 1] = 20 + i
    const there = await py.call('ends', [array])
    const back = await py.call('same', [array])
    array[1] = 30 + i
    seen.push({ there, back: [back.length, back[0], back[1], back.at(-1)], at: back.byteOffset })
    release(back)
  }
  for (const array of arrays) release(array)
  const { self, host } = await py.stats()
  return { seen, growable: arrays[0].buffer.growable, copied: self.bytes_copied + host.bytes_copied }
}

/** How many mappings of a bus's memory this process has. */
const mappings = () => readFileSync('/proc/self/maps', 'utf8').match(/memfd:isthmus/g)?.length ?? 0

async function playInBoth(memory, bytes) {
  const py = await spawn(new URL('arrays_host.py', import.meta.url), { memory, quota: memory })
  const main = await play(py, bytes)
  const before = mappings()
  const isolate = new Worker(new URL(import.meta.url), { workerData: [py.name, bytes] })
  const ended = new Promise(resolve => isolate.once('exit', resolve))
  const worker = await new Promise((resolve, reject) =>
    isolate.once('message', resolve).once('error', reject),
  )
  const during = mappings()
  isolate.postMessage('end')
  await ended
  await until('the memory is unmapped', 5000, () => mappings() === before)
  await py.close()
  return { main, worker, mapped: during - before }
}

if (isMainThread) {
  const [memory, bytes] = process.argv.slice(2).map(Number)
  const told = await playInBoth(memory, bytes).catch(({ code, message }) => ({ code, message }))
  console.log(JSON.stringify(told))
} else {
  const [bus, bytes] = workerData
  const py = await connect(bus)
  parentPort.postMessage(await play(py, bytes))
  parentPort.once('message', () => process.exit())
}
