// Arrays that lie in bus memory cross without a copy, live as long as anyone holds them, and go back.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { NDArray, release, spawn } from 'isthmus'
import { collect, privateDirectory, segmentBytes, until } from './lib.mjs'

privateDirectory()
const here = name => fileURLToPath(new URL(name, import.meta.url))
let py
before(async () => {
  py = await spawn(here('arrays_host.py'))
})
after(() => py?.close())

const copied = async () => {
  const { self, host } = await py.stats()
  return self.bytes_copied + host.bytes_copied
}
const withoutCopy = async work => {
  const before = await copied()
  const result = await work()
  assert.equal((await copied()) - before, 0, 'bytes copied')
  return result
}

const kinds = [
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array,
]

test('an allocated array of each kind goes to Python without a copy', async () => {
  for (const Kind of kinds) {
    const x = py.alloc(Kind, 10_000)
    assert.ok(x instanceof Kind && x.length === 10_000 && x.buffer instanceof SharedArrayBuffer)
    x.fill(Kind.BYTES_PER_ELEMENT === 8 && Kind !== Float64Array ? 2n : 2)
    assert.equal(Number(await withoutCopy(() => py.call('total', [x]))), 20_000)
    assert.equal(Number(await withoutCopy(() => py.call('total', [x.subarray(3, 9000)]))), 2 * 8997)
    release(x)
  }
})

test('a small allocated array is copied into the frame or lent, and right either way', async () => {
  for (const length of [0, 1, 2, 255, 256, 257]) {
    const x = py.alloc(Float64Array, length).fill(1)
    assert.equal(await py.call('total', [x]), length)
  }
})

test('any other array is copied once', async () => {
  const before = await copied()
  assert.equal(await py.call('total', [new Float64Array(100_000).fill(1)]), 100_000)
  assert.equal((await copied()) - before, 800_000)
})

test('Python sees what JavaScript writes into memory that both have', async () => {
  const x = py.alloc(Int32Array, 5000)
  await py.call('keep', [x])
  x[4999] = 77
  assert.equal(await py.call('kept_at', [4999]), 77)
  await py.call('drop')
})

test('what Python keeps stays valid when JavaScript gives it back', async () => {
  const x = py.alloc(Int32Array, 100_000).fill(5)
  await py.call('keep', [x])
  release(x)
  const others = Array.from({ length: 20 }, () => py.alloc(Int32Array, 100_000).fill(9))
  await collect()
  assert.equal(await py.call('kept_total'), 500_000)
  for (const other of others) release(other)
  await py.call('drop')
})

test('an array in bus memory comes from Python without a copy, and goes back without one', async () => {
  const x = await withoutCopy(() => py.call('empty', [[300_000], 'float64']))
  assert.ok(x instanceof Float64Array && x.buffer instanceof SharedArrayBuffer && x.length === 300_000)
  x.fill(2)
  assert.equal(await withoutCopy(() => py.call('total', [x])), 600_000)
  const y = await withoutCopy(() => py.call('same', [x]))
  assert.deepEqual([y.length, y[299_999]], [300_000, 2])
  assert.equal(y.byteOffset, x.byteOffset, 'the same memory')
  release(x)
  assert.equal(y[0], 2)
  release(y)
})

test('a photograph comes back as an NDArray over the same memory', async () => {
  const pixels = new NDArray(py.alloc(Uint8Array, 480 * 640 * 3).fill(100), [480, 640, 3])
  const half = await withoutCopy(() => py.call('halved', [pixels]))
  assert.ok(half instanceof NDArray)
  assert.deepEqual([...half.shape], [480, 640, 3])
  assert.equal(half.dtype, 'uint8')
  assert.equal(half.data[480 * 640 * 3 - 1], 50)
})

test('an array that was released can be released again, and is refused as an argument or valid as an empty one', async () => {
  const x = py.alloc(Float64Array, 1000)
  release(x)
  release(x)
  assert.equal(await py.call('add', [1, 2]), 3)
})

test('an argument is read-only in Python', async () => {
  for (const x of [py.alloc(Float64Array, 1000), new Float64Array(1000), new Float64Array(3)]) {
    await assert.rejects(py.call('overwrite', [x]), /read-only/)
    assert.equal(x[0], 0)
  }
})

test('memory comes back: a thousand large arrays each way', async () => {
  const pid = await py.call('pid')
  const before = segmentBytes(pid)
  for (let i = 0; i < 1000; i++) {
    const x = py.alloc(Float64Array, 50_000)
    x[0] = i
    const y = await py.call('next', [x])
    assert.equal(y[0], i + 1)
    release(x)
    release(y)
  }
  const peak = segmentBytes(pid)
  assert.ok(peak - before < 32 * 2 ** 20, `${peak - before} bytes more at the end of 400 MB each way`)
})

test('memory comes back by the garbage collector when nobody releases', async () => {
  const pid = await py.call('pid')
  for (let i = 0; i < 400; i++) {
    await py.call('next', [py.alloc(Float64Array, 50_000)])
    if (i % 50 === 49) await collect()
  }
  await collect()
  await py.call('collect')
  await until('pages are given back', 15_000, async () => {
    await collect()
    await py.call('add', [1, 2])
    return segmentBytes(pid) < 24 * 2 ** 20
  })
})

test('running out of memory is an error that says what to do, and passes', async () => {
  const small = await spawn(here('arrays_host.py'), { memory: 16 * 2 ** 20 })
  const held = []
  assert.throws(() => {
    for (let i = 0; i < 100; i++) held.push(small.alloc(Uint8Array, 2 ** 20))
  }, /memory/)
  assert.ok(held.length >= 8, `${held.length} MiB fitted`)
  await assert.rejects(small.call('total', [new Float64Array(2 ** 20)]), /memory|large/)
  assert.equal(await small.call('add', [1, 2]), 3)
  for (const each of held) release(each)
  assert.equal(await small.call('total', [new Float64Array(2 ** 19)]), 0)
  await small.close()
})

test('a refused allocation says how much there is, who has it and what to do; stats tell the same', async () => {
  const small = await spawn(here('arrays_host.py'), { memory: '16MiB', quota: '10MiB' })
  const mib = 2 ** 20
  const { memory: before } = await small.stats()
  assert.deepEqual([before.bytes, before.quota, before.leased, before.orphaned], [16 * mib, 10 * mib, 0, 0])
  const held = small.alloc(Uint8Array, 8 * mib)
  const { memory } = await small.stats()
  const own = memory.peers.find(peer => peer.pid === process.pid)
  assert.deepEqual([own.owned, own.leased], [8 * mib, 8 * mib])
  assert.deepEqual([memory.leased, before.free - memory.free], [8 * mib, 8 * mib])
  assert.ok(memory.longest <= memory.free)

  const refused = (bytes, pattern) =>
    assert.throws(
      () => small.alloc(Uint8Array, bytes),
      error => {
        assert.equal(error.code, 'ERR_ISTHMUS_BUS_FULL')
        assert.match(error.message, pattern)
        assert.match(error.message, /with a larger memory \(--memory/)
        return true
      },
    )
  refused(
    17 * mib,
    /^a Uint8Array of 17825792 elements: 17 MiB are more than the bus's whole memory, which is 16 MiB/,
  )
  refused(
    3 * mib,
    /no room for 3 MiB: this peer owns 8 MiB of the bus's memory already, and may own 10 MiB of 16 MiB/,
  )
  await assert.rejects(small.call('empty', [[9 * mib], 'uint8']), error => {
    assert.equal(error.type, 'BusFull')
    assert.match(error.message, /^no room for 9 MiB: of the bus's 16 MiB (8|7\.\d) MiB are free/)
    assert.ok(
      error.message.includes(`(pid ${process.pid}) owns 8 MiB. Release arrays, or serve the bus with`),
    )
    return true
  })
  release(held)
  await small.close()
})

test('without numpy, arrays are memoryviews of their format, and go back', async () => {
  const plain = await spawn(here('plain_host.py'), { env: { PYTHONPATH: here('no_numpy') } })
  for (const [x, format] of [
    [Float64Array.of(1.5, 2), 'd'],
    [Int16Array.of(-1, 2), 'h'],
    [BigInt64Array.of(-5n), /^[ql]$/],
    [new Float32Array(5000).fill(2), 'f'],
    [new Uint8Array(3), 'B'],
  ]) {
    const seen = await plain.call('describe', [x])
    assert.match(seen.format, format instanceof RegExp ? format : new RegExp(`^${format}$`))
    assert.deepEqual(
      [seen.type, seen.length, seen.readonly, seen.numpy],
      ['memoryview', x.length, true, false],
    )
    const back = await plain.call('same', [x])
    assert.ok(back instanceof x.constructor)
    assert.deepEqual([...back], [...x])
  }
  const image = new NDArray(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3])
  const seen = await plain.call('describe', [image])
  assert.deepEqual(seen.shape, [2, 3])
  const back = await plain.call('same', [image])
  assert.deepEqual(
    [[...back.shape], [...back.data]],
    [
      [2, 3],
      [1, 2, 3, 4, 5, 6],
    ],
  )
  await plain.close()
})
