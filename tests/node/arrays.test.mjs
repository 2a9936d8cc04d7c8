import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { connect, move, NDArray, release, spawn } from 'isthmus'
import { app, collectGarbage, until } from './support.mjs'

let py
before(async () => {
  py = await spawn(app)
})
after(() => py.close())

const self = async () => (await py.stats()).self
const held = async () => {
  const { leases_taken, leases_released } = await self()
  return leases_taken - leases_released
}

test('an array that is released while its message is made is the error of that message', async () => {
  const array = py.alloc(Float64Array, 1000)
  const releasing = {
    get array() {
      release(array)
      return null
    },
  }
  await assert.rejects(py.call('same', [[array, releasing]]), { code: 'ERR_ISTHMUS_RELEASED' })
  assert.equal(await py.call('add', [1, 2]), 3)
})

test('an array in bus memory is zeros, and goes to Python and back without a copy', async () => {
  const x = py.alloc(Float64Array, 100_000)
  assert.ok(x.buffer instanceof SharedArrayBuffer)
  assert.ok(x.every(value => value === 0))
  x.fill(2)
  const { bytes_copied: before } = await self()
  assert.equal(await py.call('total', [x]), 200_000)
  const same = await py.call('same', [x])
  assert.equal(same.buffer, x.buffer)
  assert.equal(same.byteOffset, x.byteOffset)
  assert.equal(same.length, x.length)
  assert.equal((await self()).bytes_copied, before)
})

test('allocUnsafe leaves in an array what was there, and alloc clears it', () => {
  const first = py.alloc(Float64Array, 50_000).fill(7)
  const at = first.byteOffset
  const again = allocate => {
    const made = []
    do made.push(allocate())
    while (made.at(-1).byteOffset !== at)
    const ends = [made.at(-1)[0], made.at(-1).at(-1)]
    for (const array of made) release(array)
    return ends
  }
  release(first)
  assert.deepEqual(
    again(() => py.allocUnsafe(Float64Array, 50_000)),
    [7, 7],
  )
  assert.deepEqual(
    again(() => py.alloc(Float64Array, 50_000)),
    [0, 0],
  )
})

test('an array in bus memory goes without a copy however small it is, and so do its parts', async () => {
  const x = py.alloc(Int32Array, 10)
  x.set([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
  const { bytes_copied: before } = await self()
  assert.equal(await py.call('total', [x.subarray(2, 4)]), 7)
  assert.deepEqual(await py.call('same', [new NDArray(x, [2, 5])]), new NDArray(x, [2, 5]))
  assert.equal((await self()).bytes_copied, before)
})

test('an array elsewhere is copied once', async () => {
  const { bytes_copied: before } = await self()
  await py.call('total', [new Float64Array(1000)])
  assert.equal((await self()).bytes_copied - before, 8000)
})

test('a result in bus memory is a typed array over it', async () => {
  const result = await py.call('counting', [1000])
  assert.equal(result.constructor, Float64Array)
  assert.ok(result.buffer instanceof SharedArrayBuffer)
  assert.deepStrictEqual(
    result,
    Float64Array.from({ length: 1000 }, (_, i) => i),
  )
  assert.deepEqual(Object.keys(result).length, 1000)
})

test('a result that is written to in JavaScript goes back to Python as it is now', async () => {
  const result = await py.call('counting', [1000])
  result.fill(1)
  assert.equal(await py.call('total', [result]), 1000)
})

test('what is released is given back once, and can not be sent any more', async () => {
  const before = await held()
  const { leases_refused: refused } = await self()
  const x = py.alloc(Float64Array, 1000)
  const result = await py.call('counting', [1000])
  const part = x.subarray(1)
  assert.equal(release(x), true)
  assert.equal(release(x), false)
  assert.equal(py.release(result), true)
  assert.equal(release(new Float64Array(3)), false)
  await assert.rejects(py.call('total', [x]), {
    code: 'ERR_ISTHMUS_ENCODE',
    message: /args\[0\] was released/,
  })
  await assert.rejects(py.call('total', [part]), { code: 'ERR_ISTHMUS_ENCODE' })
  await until('all is given back', async () => (await py.call('add', [1, 1])) && (await held()) === before)
  assert.equal((await self()).leases_refused, refused)
})

test('Symbol.dispose gives back, of arrays and of NDArrays', async () => {
  const x = py.alloc(Float64Array, 1000)
  x[Symbol.dispose]()
  await assert.rejects(py.call('total', [x]), { code: 'ERR_ISTHMUS_ENCODE' })
  const grid = await py.call('grid', [100, 100])
  grid[Symbol.dispose]()
  await assert.rejects(py.call('total', [grid]), { code: 'ERR_ISTHMUS_ENCODE' })
})

test('what the garbage collector finds is given back', async () => {
  const before = await held()
  await (async () => {
    for (let i = 0; i < 50; ++i) {
      py.alloc(Float64Array, 10_000)
      await py.call('counting', [10_000])
    }
  })()
  assert.ok((await held()) > before)
  await until('all is given back', async () => {
    await collectGarbage()
    await py.call('add', [1, 1])
    return (await held()) <= before
  })
})

test('a part of an array keeps all of it', async () => {
  const part = (await py.call('counting', [100_000])).subarray(50_000).subarray(0, 10)
  await collectGarbage()
  for (let i = 0; i < 20; ++i) py.alloc(Float64Array, 100_000).fill(-1)
  await collectGarbage()
  assert.deepStrictEqual(
    [...part],
    Array.from({ length: 10 }, (_, i) => 50_000 + i),
  )
})

test('what Python keeps stays as it was after JavaScript has let go', async () => {
  await (async () => {
    const x = py.alloc(Float64Array, 50_000).fill(3)
    await py.call('keep', [x])
    release(x)
  })()
  for (let i = 0; i < 20; ++i) py.alloc(Float64Array, 50_000).fill(-1)
  assert.equal(await py.call('kept_total'), 150_000)
  await py.call('let_go')
  await collectGarbage()
})

test('Python may not write to what was lent, and may to what was moved', async () => {
  const x = py.alloc(Float64Array, 1000)
  await assert.rejects(py.call('fill', [x, 1]), { type: 'ValueError', message: /read-only/ })
  assert.equal(await py.call('fill', [move(x), 2]), 2000)
  await assert.rejects(py.call('total', [x]), { code: 'ERR_ISTHMUS_ENCODE' })
  assert.equal(await py.call('fill', [move(new Float64Array(1000)), 3]), 3000)
  assert.equal(await py.call('fill', [move(new NDArray(new Float64Array(6), [2, 3])), 1]), 6)
  assert.throws(() => move('text'), TypeError)
})

test('a moved array stays with its owner when the call is not made', async () => {
  const x = py.alloc(Float64Array, 1000)
  await assert.rejects(py.call('fill', [move(x), Symbol('x')]), { code: 'ERR_ISTHMUS_ENCODE' })
  assert.equal(await py.call('total', [x]), 0)
})

test('an array in many places of one message is one array in JavaScript memory', async () => {
  const x = py.alloc(Float64Array, 1000).fill(1)
  const before = await held()
  const [a, { b }] = await py.call('same', [[x, { b: x }]])
  assert.equal(a.byteOffset, b.byteOffset)
  release(a)
  assert.equal(b[0], 1)
  release(b)
  assert.equal(await py.call('total', [x]), 1000)
  assert.equal(await held(), before)
})

test('an allocation says what is wrong with its length', () => {
  assert.throws(() => py.alloc(Float64Array, -1), RangeError)
  assert.throws(() => py.alloc(Float64Array, 1.5), RangeError)
  assert.equal(py.alloc(Float64Array, 0).length, 0)
})

test('allocAsync gives what alloc does, while the event loop turns', async () => {
  let turns = 0
  let isDone = false
  const turn = () => {
    turns++
    if (!isDone) setImmediate(turn)
  }
  setImmediate(turn)
  const x = await py.allocAsync(Float64Array, 16 << 20)
  isDone = true
  assert.ok(turns > 10, `${turns} turns`)
  assert.equal(x.length, 16 << 20)
  const { bytes_copied: before } = await self()
  assert.equal(await py.call('total', [x]), 0)
  x.fill(1)
  release(x)
  const again = await py.allocAsync(Float64Array, [4096, 4096]) // the same block
  assert.deepEqual(again.shape, [4096, 4096])
  assert.equal(await py.call('total', [again]), 0)
  assert.equal((await self()).bytes_copied, before)
  assert.equal(release(again), true)
  assert.equal((await py.allocAsync('complex128', 0)).size, 0)
  await assert.rejects(py.allocAsync(Float64Array, -1), RangeError)
  await assert.rejects(py.allocAsync(Uint8Array, 2 ** 40), { code: 'ERR_ISTHMUS_BUS_FULL' })
})

test('an allocation that is under way when its isolate ends, or its bus is closed, leaves nothing', async () => {
  const before = (await py.stats()).memory.leased
  const worker = new Worker(
    `const { parentPort, workerData } = require('node:worker_threads')
     require('isthmus').connect(workerData).then(py => {
       py.allocAsync(Uint8Array, 256 << 20).catch(() => {})
       parentPort.postMessage('begun')
     })`,
    { eval: true, workerData: py.name },
  )
  await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
  await worker.terminate()
  const other = await connect(py.name)
  const allocating = other.allocAsync(Uint8Array, 64 << 20)
  await other.close()
  await assert.rejects(allocating, { code: 'ERR_ISTHMUS_CLOSED' })
  await until('nothing is left', async () => (await py.stats()).memory.leased === before)
})

test('large arrays come and go without the memory growing', async () => {
  const chunks = async () => {
    const { self, host } = await py.stats()
    return self.chunks_taken - self.chunks_returned + host.chunks_taken - host.chunks_returned
  }
  for (let i = 0; i < 10; ++i) release(await py.call('same', [new Float64Array(500_000)]))
  const before = await chunks()
  for (let i = 0; i < 100; ++i) release(await py.call('same', [new Float64Array(500_000)]))
  assert.ok((await chunks()) <= before + 32, `${before} -> ${await chunks()} chunks`)
})
