// What Bun and Deno do, tried on Node: a thread waits for the bell instead of libuv.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { app, run } from './support.mjs'

const program = `
import assert from 'node:assert/strict'
import { HostLostError, spawn } from 'isthmus'
import { Worker } from 'node:worker_threads'
const py = await spawn(${JSON.stringify(app)})
`

function threaded(code, options) {
  return run(program + code, { ...options, env: { ISTHMUS_WAKE: 'thread' } })
}

async function succeeds(code) {
  const { code: status, signal, err } = await threaded(code)
  assert.deepEqual([status, signal, err.replace(/isthmus: .*\n/g, '')], [0, null, ''])
}

test('with a thread, calls are answered one at a time and many at once', () =>
  succeeds(`
    for (let i = 0; i < 500; ++i) assert.equal(await py.call('add', [i, 1]), i + 1)
    const many = await Promise.all(Array.from({ length: 5000 }, (_, i) => py.call('add', [i, 1])))
    assert.deepEqual(many, Array.from({ length: 5000 }, (_, i) => i + 1))
    assert.equal(await py.call('total', [py.alloc(Float64Array, 10_000).fill(1)]), 10_000)
    await py.close()`))

test('with a thread, calls reach the host at once, also behind many that take long', () =>
  succeeds(`
    const { connect } = await import('isthmus')
    const slow = Array.from({ length: 40 }, () => py.call('sleep', [0.01]))
    py.post('post', ['last'])
    await new Promise(resolve => setTimeout(resolve, 50))
    const other = await connect(py.name)
    await Promise.all(slow)
    let posted = []
    while (posted.length === 0) posted = await other.call('take_posted') // whose turn may come before it
    assert.deepEqual(posted, ['last'])
    await other.close()
    await py.close()`))

test('with a thread, blocking and waiting calls get along', () =>
  succeeds(`
    for (let i = 0; i < 200; ++i) {
      const calls = [py.call('add', [i, 1]), py.call('add', [i, 2])]
      assert.equal(py.callSync('add', [i, 3]), i + 3)
      assert.deepEqual(await Promise.all(calls), [i + 1, i + 2])
    }
    const slow = py.call('sleep', [0.1])
    py.callSync('add', [1, 2])
    assert.equal(await slow, 0.1)`))

test('with a thread, a program ends when nothing is in flight, and not before', async () => {
  const { code, out } = await threaded(`py.call('sleep', [0.3]).then(() => console.log('answered'))`)
  assert.deepEqual([code, out], [0, 'answered\n'])
  const unref = await threaded(`py.unref().call('sleep', [5]).then(() => console.log('answered'))`)
  assert.deepEqual([unref.code, unref.out], [0, ''])
})

test('with a thread, timeouts and a lost host are noticed', () =>
  succeeds(`
    await assert.rejects(py.call('sleep', [0.2], { timeout: 20 }), { code: 'ERR_ISTHMUS_TIMEOUT' })
    await assert.rejects(py.call('die'), HostLostError)
    await py.close()`))

test('with a thread, workers are terminated in mid-call', () =>
  succeeds(`
    const code = \`
      const { parentPort, workerData } = require('node:worker_threads')
      const { connect } = require(workerData.isthmus)
      connect(workerData.bus).then(async py => {
        parentPort.postMessage('ready')
        for (;;) await py.call('add', [1, 2])
      })\`
    const isthmus = ${JSON.stringify(new URL('../../adapters/node/dist/index.js', import.meta.url).pathname)}
    const workers = Array.from({ length: 4 }, () => new Worker(code, { eval: true, execArgv: [], workerData: { bus: py.name, isthmus } }))
    await Promise.all(workers.map(worker => new Promise(resolve => worker.once('message', resolve))))
    await Promise.all(workers.map(worker => worker.terminate()))
    assert.equal(await py.call('add', [1, 2]), 3)
    await py.close()`))
