// Worker threads that come and go: 24 at a time, 500 in all.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { connect } from 'isthmus'
import {
  collect,
  descriptors,
  privateBytes,
  privateDirectory,
  segmentBytes,
  serve,
  sleep,
  threads,
  until,
  usedBytes,
} from '../cross/lib.mjs'

privateDirectory()
let host
let py
before(async () => {
  host = await serve(fileURLToPath(new URL('host.py', import.meta.url)), 'crowd')
  py = await connect('crowd')
})
after(async () => {
  await py?.close()
  await host?.stop()
})

/** Runs a job for each number below `total`, 24 at a time. */
async function crowd(total, job) {
  let next = 0
  const lane = async () => {
    while (next < total) await job(next++)
  }
  await Promise.all(Array.from({ length: 24 }, lane))
}

const chain = (i, endless) =>
  new Worker(new URL('chain.cjs', import.meta.url), { workerData: { bus: 'crowd', i, endless } })

const toItsEnd = i =>
  new Promise((resolve, reject) => {
    let sum
    chain(i, false)
      .on('message', message => {
        sum = message
      })
      .on('error', reject)
      .on('exit', code =>
        code === 0 && sum === 100 ? resolve() : reject(new Error(`worker ${i}: ${code}, ${sum}`)),
      )
  })

// at a moment between the worker's first instruction and far into its calls
const terminated = async i => {
  const worker = chain(i, true)
  const failed = new Promise((_, reject) => worker.on('error', reject))
  failed.catch(() => {})
  if (i % 4 > 0) await Promise.race([failed, new Promise(resolve => worker.once('message', resolve))])
  await Promise.race([failed, sleep(Math.random() * 40)])
  await worker.terminate()
}

async function figures() {
  await collect()
  const { host: counters } = await py.stats()
  return {
    nodeDescriptors: descriptors(process.pid),
    hostDescriptors: descriptors(host.pid),
    nodeThreads: threads(process.pid),
    hostThreads: threads(host.pid),
    hostLeases: counters.leases_taken - counters.leases_released,
    nodeMiB: usedBytes() / 2 ** 20,
    hostMiB: privateBytes(host.pid) / 2 ** 20,
    segmentMiB: segmentBytes(host.pid) / 2 ** 20,
  }
}

// what may differ: allocators keep some of what was freed, and pages of the bus go back after a while
const slack = { nodeMiB: 16, hostMiB: 8, segmentMiB: 4 }

for (const [what, job] of [
  ['each with a chain of 100 calls', toItsEnd],
  ['terminated in mid-call', terminated],
]) {
  test(`500 worker threads, 24 at a time, ${what}: no hang, no crash, no leak`, async t => {
    await crowd(250, job) // until then allocators still keep more and more of what was freed
    await sleep(500)
    const before = await figures()
    await crowd(250, job)
    let now
    await until('all is given back', 15_000, async () => {
      now = await figures()
      return Object.keys(now).every(key => now[key] <= before[key] + (slack[key] ?? 0))
    }).catch(error => {
      throw new Error(`${error.message}: ${JSON.stringify({ before, now }, null, 1)}`)
    })
    t.diagnostic(JSON.stringify({ before, now }))
    assert.equal(await py.call('add', [1, 2]), 3)
  })
}

test('a worker that is terminated while others call spoils none of their answers', async () => {
  const ends = []
  const others = Promise.all(Array.from({ length: 40 }, (_, i) => toItsEnd(i)))
  for (let i = 0; i < 40; i++) ends.push(terminated(i))
  await Promise.all([others, ...ends])
})

test('a worker that waits in callSync is terminated at once, and its host serves on', async () => {
  const source = `
    const { parentPort } = require('node:worker_threads')
    require('isthmus').connect('crowd').then(py => {
      parentPort.postMessage('waiting')
      py.callSync('sleep', [2])
    })`
  for (let i = 0; i < 3; i++) {
    const worker = new Worker(source, { eval: true })
    await new Promise(resolve => worker.once('message', resolve))
    await sleep(20)
    const started = performance.now()
    await worker.terminate()
    assert.ok(performance.now() - started < 1000)
    assert.equal(await py.call('add', [1, 2]), 3)
  }
})
