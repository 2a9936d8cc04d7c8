// Both orders of shutdown, and no order, a thousand times each, with calls in flight: each isolate is on four buses.

import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import {
  collect,
  descriptors,
  isAlive,
  privateDirectory,
  python,
  runNode,
  start,
  threads,
  until,
} from '../cross/lib.mjs'

const buses = privateDirectory()
const shutdowns = 1000
const busesOfOne = 4
const lanes = 3

/** The process of the hosts: starts and stops a host by its bus's name. */
function hosts() {
  const program = start(python, [fileURLToPath(new URL('shutdown_host.py', import.meta.url))])
  const waiting = new Map()
  program.child.stdout.on('data', () => {
    for (const line of program.lines.splice(0)) {
      waiting.get(line)?.resolve()
      waiting.delete(line)
    }
  })
  program.ended.then(end => {
    for (const each of waiting.values())
      each.reject(new Error(`the hosts ended with ${end.code ?? end.signal}: ${program.err}`))
  })
  const ask = (verb, answer) => bus => {
    program.say(`${verb} ${bus}`)
    return new Promise((resolve, reject) => waiting.set(`${answer} ${bus}`, { resolve, reject }))
  }
  return { ...program, start: ask('start', 'up'), stop: ask('stop', 'down') }
}

function isolate(buses) {
  const worker = new Worker(new URL('isolate.cjs', import.meta.url), { workerData: { buses } })
  let wrong = []
  const busy = new Promise((resolve, reject) => {
    worker.on('message', message => {
      if (message === 'busy') resolve()
      else wrong = message.wrong
    })
    worker.on('error', reject)
    worker.on('exit', reject)
  })
  const gone = new Promise((resolve, reject) => {
    worker.on('error', reject)
    worker.on('exit', () => (wrong.length > 0 ? reject(new Error(wrong.join('\n'))) : resolve()))
  })
  gone.catch(() => {})
  const leave = round => (round % 2 === 0 ? worker.postMessage('close') : worker.terminate())
  return { busy, gone, leave }
}

const orders = {
  'host first': async (stop, each) => {
    await stop()
    await each.gone
  },
  'isolate first': async (stop, each, round) => {
    each.leave(round)
    await each.gone
    await stop()
  },
  'both at once': async (stop, each, round) => {
    const down = stop()
    each.leave(round)
    await Promise.all([down, each.gone])
  },
}

const within = (ms, promise, what) => {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`still not after ${ms} ms: ${what}`)), ms)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

let host
before(() => {
  host = hosts()
})
after(() => host.child.kill('SIGKILL'))

for (const [order, shutDown] of Object.entries(orders)) {
  test(`${shutdowns} shutdowns, ${order}`, async t => {
    let next = 0
    const play = async round => {
      const buses = Array.from(
        { length: busesOfOne },
        (_, i) => `${order.replaceAll(' ', '-')}-${round}-${i}`,
      )
      await Promise.all(buses.map(host.start))
      const each = isolate(buses)
      await each.busy
      await shutDown(() => Promise.all(buses.map(host.stop)), each, round)
    }
    const lane = async last => {
      while (next < last) {
        const round = next++
        await within(10_000, play(round), `round ${round}`)
      }
    }
    const lot = last => Promise.all(Array.from({ length: lanes }, () => lane(last)))
    await lot(12)
    await collect()
    const figures = () => ({
      node: descriptors(process.pid),
      host: descriptors(host.pid),
      threads: threads(host.pid),
    })
    const before = figures()
    await lot(12 + shutdowns / busesOfOne)
    await collect()
    await until('descriptors and threads are back', 5000, () => {
      const now = figures()
      return now.node <= before.node && now.host <= before.host && now.threads <= before.threads
    }).catch(error => {
      throw new Error(`${error.message}: ${JSON.stringify({ before, now: figures() })}`)
    })
    assert.deepEqual(readdirSync(buses), [], 'nothing is left in the directory of sockets')
    t.diagnostic(JSON.stringify({ before, after: figures() }))
  })
}

for (const order of ['host-first', 'process-first', 'both-at-once']) {
  test(`6 shutdowns of whole processes, ${order.replaceAll('-', ' ')}`, async () => {
    for (let round = 0; round < 6; round++) {
      const run = await runNode(fileURLToPath(new URL('child.mjs', import.meta.url)), [order], { ms: 10_000 })
      assert.deepEqual(
        { code: run.code, signal: run.signal, err: run.err },
        { code: 0, signal: null, err: '' },
      )
      const pid = Number(run.out.match(/host (\d+)/)[1])
      await until('the host is gone', 1000, () => !isAlive(pid))
    }
    assert.deepEqual(readdirSync(buses), [])
  })
}
