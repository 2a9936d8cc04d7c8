// Memory goes back: after a burst of 2 GB (less where the machine has less) and ten idle seconds, the bus has under 64 MB of pages.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { release, spawn } from 'isthmus'
import { privateDirectory, segmentBytes, until } from '../cross/lib.mjs'

privateDirectory()
const app = fileURLToPath(new URL('burst_host.py', import.meta.url))
const available = Number(readFileSync('/proc/meminfo', 'utf8').match(/MemAvailable:\s+(\d+)/)[1]) * 1024
const burst = Math.max(256 << 20, Math.min(2 ** 31, available / 3))
const piece = 32 << 20
const pieces = Math.ceil(burst / piece)
const megabytes = Math.ceil(burst / 2 ** 20)
const limit = 64e6
const memory = Math.ceil(burst * 1.5)

const shmem = pid => Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/RssShmem:\s+(\d+)/)[1]) * 1024

/** Whether the pages of the bus are gone ten seconds after the burst. */
async function goesBack(t, work) {
  const py = await spawn(app, { memory, quota: memory })
  const pid = await py.call('pid')
  let most = 0
  const look = () => {
    most = Math.max(most, segmentBytes(pid))
  }
  const looking = setInterval(look, 50)
  await work(py, look)
  clearInterval(looking)
  const ended = performance.now()
  const isBack = () => segmentBytes(pid) < limit && shmem(pid) < limit && shmem(process.pid) < limit
  await until('the pages are gone', 10_000, isBack)
  t.diagnostic(
    `${Math.round(most / 2 ** 20)} MiB, gone after ${((performance.now() - ended) / 1000).toFixed(1)} s`,
  )
  await py.close()
  return most
}

test('what JavaScript allocated, filled and released', async t => {
  const most = await goesBack(t, (py, look) => {
    const arrays = Array.from({ length: pieces }, () => py.alloc(Uint8Array, piece).fill(1))
    look()
    for (const array of arrays) release(array)
  })
  assert.ok(most >= burst)
})

test('what JavaScript allocated and forgot', async t => {
  const most = await goesBack(t, (py, look) => {
    for (let i = 0; i < pieces; i++) py.alloc(Uint8Array, piece).fill(1)
    look()
  })
  assert.ok(most >= burst)
})

test('arrays that Python computed, all held at once and then forgotten', async t => {
  const most = await goesBack(t, async (py, look) => {
    const arrays = await Promise.all(Array.from({ length: pieces }, () => py.call('ones', [piece])))
    look()
    assert.ok(arrays.every(array => array.at(-1) === 1))
  })
  assert.ok(most >= burst)
})

test('large messages both ways', async t => {
  const text = 'x'.repeat(piece)
  const messages = pieces / 4 // encoding takes its time
  await goesBack(t, py => Promise.all(Array.from({ length: messages }, () => py.call('length', [text]))))
  await goesBack(t, async py => {
    for (let i = 0; i < messages; i++) await py.call('text', [piece])
  })
})

test('streams of arrays both ways', async t => {
  await goesBack(t, async py => {
    let last
    for await (const array of py.stream('stream', [megabytes, 1 << 20])) last = array
    assert.equal(last.at(-1), 1)
  })
  await goesBack(t, async py => {
    const arrays = function* () {
      for (let i = 0; i < megabytes; i++) yield py.alloc(Uint8Array, 1 << 20).fill(1)
    }
    assert.equal(await py.call('bytes_of', [arrays()]), megabytes * 2 ** 20)
  })
})

test('what a worker allocated that never runs again', async t => {
  const most = await goesBack(t, async (py, look) => {
    const worker = new Worker(new URL('burst_worker.mjs', import.meta.url), {
      workerData: [py.name, pieces, piece],
    })
    await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
    look()
    t.after(() => worker.terminate())
  })
  assert.ok(most >= burst)
})
