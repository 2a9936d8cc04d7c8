import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { spawn } from 'isthmus'
import { isAlive, until } from './support.mjs'

const app = fileURLToPath(new URL('./in-processes.py', import.meta.url))

test('exports of a spawned app run in processes of their own, arrays go there and back as handles', async t => {
  const py = await spawn(app)
  t.after(() => py.close())
  assert.notEqual(await py.call('pid'), await py.call('host'))
  const x = py.alloc(Float64Array, 100_000)
  x.fill(21)
  const copied = async () => {
    const { self, host } = await py.stats()
    return [self.bytes_copied, host.bytes_copied]
  }
  const before = await copied()
  for (let i = 0; i < 4; ++i) {
    const doubled = await py.call('double', [x])
    assert.equal(doubled.length, 100_000)
    assert.ok(doubled.every(value => value === 42))
    assert.ok(doubled.buffer instanceof SharedArrayBuffer)
  }
  assert.deepEqual(await copied(), before)
})

test('what is raised there is as clear as what the host raises, a process that dies ends its call alone', async t => {
  const py = await spawn(app)
  t.after(() => py.close())
  await assert.rejects(py.call('fail'), { type: 'Unfit', message: /not this/ })
  await assert.rejects(py.call('die'), { type: 'PeerLost', message: /'die' was lost: a worker process/ })
  assert.notEqual(await py.call('pid'), await py.call('host'))
})

test('the processes end with the program that spawned their host', async () => {
  const py = await spawn(app)
  const worker = await py.call('pid')
  await py.close()
  await until('the process has ended', () => !isAlive(worker))
})
