// Calls of many isolates that become one call of Python.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { spawn } from 'isthmus'
import { gather } from './gathers.mjs'
import { run } from './support.mjs'

const app = fileURLToPath(new URL('./batches.py', import.meta.url))
const rounds = 3

function inThread(bus, name) {
  const worker = new Worker(new URL('./gathers.mjs', import.meta.url), { workerData: [bus, name, rounds] })
  return new Promise((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
}

async function inProcess(bus, name) {
  const program = `
    import { gather } from './tests/node/gathers.mjs'
    const [bus, name] = process.argv.slice(1)
    console.log(JSON.stringify(await gather(bus, name, ${rounds})))`
  const { out, err } = await run(program, { args: [bus, name] })
  assert.equal(err, '')
  return JSON.parse(out)
}

test('calls of many isolates become one call of Python', { timeout: 60_000 }, async t => {
  const py = await spawn(app)
  t.after(() => py.close())
  const threads = ['thread 1', 'thread 2', 'thread 3']
  const everyone = ['main', 'process', ...threads]
  const told = await Promise.all([
    gather(py.name, 'main', rounds),
    inProcess(py.name, 'process'),
    ...threads.map(name => inThread(py.name, name)),
  ])
  for (const each of told) {
    assert.deepEqual(each, told[0])
    assert.deepEqual(
      each.map(({ batch }) => batch),
      [1, 2, 3],
    )
    for (const { callers } of each) assert.deepEqual(callers.toSorted(), everyone)
  }
  assert.equal(await py.call('count'), rounds)
})
