import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { move, NDArray, release, spawn } from 'isthmus'
import sharp from 'sharp'
import { collectGarbage } from './support.mjs'

let py
before(async () => {
  py = await spawn(new URL('arrays_app.py', import.meta.url))
})
after(() => py.close())

const counting = (shape, Type = Float64Array) => {
  const size = shape.reduce((product, extent) => product * extent, 1)
  return new NDArray(
    Type.from({ length: size }, (_, i) => i),
    shape,
  )
}
const copied = async () => {
  const { self, host } = await py.stats()
  return self.bytes_copied + host.bytes_copied
}

test('an array tells its elements, also from the end', () => {
  const a = counting([2, 3, 4])
  assert.equal(a.at(1, 2, 3), 23)
  assert.equal(a.at(-1, -1, -1), 23)
  assert.equal(a.at(0, 1, 0), 4)
  assert.throws(() => a.at(0, 3, 0), { name: 'RangeError', message: '3 is outside of 0 to 2' })
  assert.throws(() => a.at(0, 0), { name: 'RangeError', message: '3 indices are needed, 2 were given' })
  assert.deepEqual(a.strides, [12, 4, 1])
  assert.equal(a.order, 'C')
})

test('a slice is a view, as numpy would take it', () => {
  const a = counting([4, 5])
  assert.deepEqual(a.slice(1).toNested(), [5, 6, 7, 8, 9])
  assert.deepEqual(a.slice(null, 2).toNested(), [2, 7, 12, 17])
  assert.deepEqual(a.slice([1, 3], [null, null, 2]).toNested(), [
    [5, 7, 9],
    [10, 12, 14],
  ])
  assert.deepEqual(a.slice([null, null, -2], [-2]).toNested(), [
    [18, 19],
    [8, 9],
  ])
  assert.deepEqual(a.slice([10]).shape, [0, 5])
  assert.deepEqual(a.slice([3, 1]).toNested(), [])
  assert.equal(a.slice(1, 1).toNested(), 6)
  assert.deepEqual(a.slice([1]).slice([null, null, 2], 0).toNested(), [5, 15])
  const part = a.slice(1)
  a.data[5] = -1
  assert.equal(part.at(0), -1)
  assert.throws(() => a.slice(4), { name: 'RangeError' })
  assert.throws(() => a.slice([0, 1, 0]), { name: 'RangeError', message: '0 is no step' })
  assert.throws(() => a.slice(0, 0, 0), { name: 'RangeError', message: 'there are 2 dimensions' })
})

test('a layout that leaves the data is refused', () => {
  const data = new Float32Array(10)
  assert.throws(() => new NDArray(data, [2, 6], 'float32', { strides: [6, 1] }), /leaves the data/)
  assert.throws(() => new NDArray(data, [3], 'float32', { strides: [-1], offset: 1 }), /leaves the data/)
  assert.throws(() => new NDArray(data, [3], 'float32', { strides: [1, 1] }), /one stride for each dimension/)
  assert.throws(() => new NDArray(data, [3], 'float32', { strides: [0.5] }), /integers/)
  assert.deepEqual(new NDArray(data, [3], 'float32', { strides: [-1], offset: 2 }).toNested(), [0, 0, 0])
  assert.deepEqual(new NDArray(data, [2, 2], 'float32', { strides: [0, 0] }).size, 4)
})

test('Fortran order is told', () => {
  const a = new NDArray(Float64Array.of(1, 2, 3, 4, 5, 6), [2, 3], 'float64', 'F')
  assert.deepEqual(a.toNested(), [
    [1, 3, 5],
    [2, 4, 6],
  ])
  assert.equal(a.order, 'F')
  assert.equal(counting([2, 3]).slice(null, [null, 2]).order, undefined)
})

test('views of bus memory come as they lie, without a copy', async () => {
  await py.call('views')
  const before = await copied()
  const [turned, gaps, part] = await py.call('views')
  assert.equal(await copied(), before)
  assert.deepEqual(turned.strides, [1, 600])
  assert.equal(turned.order, 'F')
  assert.deepEqual(gaps.strides, [1200, -3])
  assert.deepEqual(part.shape, [395, 4])
  assert.equal(turned.at(3, 2), 2 * 600 + 3)
  assert.equal(gaps.at(1, 1), 2 * 600 + 596)
  assert.equal(part.at(1, 1), 6 * 600 + 4)
  for (const view of [turned, gaps, part]) assert.ok(view.data.buffer instanceof SharedArrayBuffer)
})

test('a part of bus memory goes to Python as it lies, and elsewhere it is put in order', async () => {
  const [, gaps] = await py.call('views')
  const before = await copied()
  assert.deepEqual(await py.call('seen', [gaps.slice([1, null, 2])]), {
    dtype: 'float32',
    shape: [100, 200],
    strides: [9600, -12],
    first: gaps.at(1, 0),
    last: gaps.at(-1, -1),
  })
  assert.equal(await copied(), before)
  const own = counting([200, 300]).slice(null, [null, null, 2])
  assert.deepEqual(await py.call('seen', [own]), {
    dtype: 'float64',
    shape: [200, 150],
    strides: [1200, 8],
    first: 0,
    last: own.at(-1, -1),
  })
  assert.equal(await copied(), before + own.size * 8)
})

test('a view keeps its block, and so do the views of it', async () => {
  let part = (await py.call('views'))[1].slice([0, 3])
  for (let i = 0; i < 30; ++i) {
    await py.call('views')
    await collectGarbage()
  }
  assert.equal(part.at(2, 1), 4 * 600 + 596)
  part = undefined
})

const typed = {
  seconds: ['<M8[s]', [1704164645n, -86400n], BigInt64Array],
  span: ['<m8[ms]', [1500n, -1n], BigInt64Array],
  bytes: ['|S5', [Uint8Array.of(97, 98, 99), new Uint8Array(0)], Uint8Array],
  text: ['<U3', ['häß', '😀'], Uint8Array],
  raw: ['|V2', [Uint8Array.of(1, 2), Uint8Array.of(3, 4)], Uint8Array],
}
for (const [name, [dtype, elements, Type]] of Object.entries(typed)) {
  test(`numpy's ${dtype} comes as documented, and goes back as it was`, async () => {
    const array = await py.call('typed', [name])
    assert.equal(array.dtype, dtype)
    assert.equal(array.data.constructor, Type)
    assert.deepEqual(array.toNested(), elements)
    assert.equal(await py.call('is_typed', [name, array]), true)
  })
}

test('records come with their fields, and go back as they were', async () => {
  const records = await py.call('typed', ['records'])
  assert.deepEqual(records.toNested(), [
    { id: 1, weight: 2.5, at: [1, 2] },
    { id: 3, weight: 4.5, at: [3, 4] },
  ])
  assert.deepEqual(records.field('weight').toNested(), [2.5, 4.5])
  assert.deepEqual(records.field('at').toNested(), [
    [1, 2],
    [3, 4],
  ])
  assert.throws(() => records.field('height'), { name: 'TypeError', message: /has no field 'height'/ })
  assert.equal(await py.call('is_typed', ['records', records]), true)
})

test('many dates lie in bus memory, and are copied at most once', async () => {
  await py.call('dates', [10])
  const before = await copied()
  const dates = await py.call('dates', [100_000])
  assert.equal(await copied(), before)
  assert.equal(dates.data.length, 100_000)
  assert.equal(dates.at(-1), 99_999n)
})

test('an array that is no numbers can be made here', async () => {
  const array = new NDArray(BigInt64Array.of(0n, 86_400n), [2], '<M8[s]')
  assert.equal(await py.call('text_of', [array]), "['1970-01-01T00:00:00' '1970-01-02T00:00:00']")
  assert.throws(
    () => new NDArray(new Uint8Array(8), [1], '<M8[s]'),
    /lie in a BigInt64Array, not in a Uint8Array/,
  )
  assert.throws(() => new NDArray(new Uint8Array(8), [8], 'object'), {
    name: 'TypeError',
    message: "'object' is no dtype",
  })
})

const named = [
  'bool',
  'int8',
  'uint16',
  'int64',
  'uint64',
  'float16',
  'float32',
  'float64',
  'complex64',
  'complex128',
]
const coded = ['<M8[ns]', '<m8[s]', '|S16', '<U5', '[["x", "<f4"], ["id", "<i8"]]']

for (const dtype of [...named, ...coded]) {
  test(`an array of ${dtype} is allocated in bus memory, and goes there and back without a copy`, async () => {
    const before = await copied()
    const array = py.alloc(dtype, [30, 40])
    assert.ok(array instanceof NDArray && array.data.buffer instanceof SharedArrayBuffer)
    assert.deepEqual([array.dtype, array.shape], [dtype, [30, 40]])
    const [back, shape, isZero] = await py.call('zeros', [array])
    assert.deepEqual([back.dtype, back.shape, shape, isZero], [dtype, [30, 40], [30, 40], true])
    assert.equal(back.data.byteOffset, array.data.byteOffset)
    assert.equal(await copied(), before)
    array[Symbol.dispose]()
  })
}

test('a field of records in bus memory ends with them, and keeps them as long as it is there', async () => {
  const type = '[["x", "<f8"], ["y", "<f8"]]'
  const records = py.alloc(type, [1000])
  const x = records.field('x')
  const few = x.data.subarray(0, 10)
  release(records)
  const released = { code: 'ERR_ISTHMUS_RELEASED' }
  assert.throws(() => x.at(0), released)
  assert.throws(() => x.toNested(), released)
  assert.throws(() => few.subarray(1), released)
  for (const part of [x, few]) await assert.rejects(py.call('zeros', [part]), { code: 'ERR_ISTHMUS_ENCODE' })
  const part = py.alloc(type, [100_000]).field('y').data.subarray(0, 10).fill(7)
  await collectGarbage()
  const others = Array.from({ length: 10 }, () => py.alloc(type, [100_000]))
  assert.deepEqual([...part], Array(10).fill(7))
  for (const other of others) other[Symbol.dispose]()
})

test('alloc takes a length or a shape, and says what is no type, shape or length', async () => {
  assert.ok(py.alloc(Float32Array, 6) instanceof Float32Array)
  const grid = py.alloc(BigInt64Array, [2, 3])
  assert.deepEqual([grid.shape, grid.dtype, grid.data.length], [[2, 3], 'int64', 6])
  assert.deepEqual(py.alloc('complex128', 3).shape, [3])
  assert.equal(py.alloc('complex128', []).data.length, 2)
  if (globalThis.Float16Array) assert.equal(py.alloc(Float16Array, [4]).dtype, 'float16')
  assert.throws(() => py.alloc('object', 3), { name: 'TypeError', message: "'object' is no dtype" })
  for (const nearly of ['i4xyz', 'S3zz', 'f8[ns]', '<i4 ', 'xi4'])
    assert.throws(() => py.alloc(nearly, 3), { name: 'TypeError', message: `'${nearly}' is no dtype` })
  assert.throws(() => py.alloc(Array, 3), { name: 'TypeError', message: 'Array is no typed array' })
  assert.throws(() => py.alloc('float64', [2, -1]), RangeError)
})

test("what was moved is the callee's, and its use here is an error that says so", async () => {
  const array = py.alloc('float64', [10, 20])
  array.data.fill(1)
  const part = array.data.subarray(5)
  const result = await py.call('doubled', [move(array)])
  assert.equal(result.at(9, 19), 2)
  const gone = { code: 'ERR_ISTHMUS_RELEASED', message: /was moved: it is the callee's/ }
  for (const use of [
    () => array.at(0, 0),
    () => array.slice(0),
    () => array.toNested(),
    () => array.data.subarray(1),
  ])
    assert.throws(use, gone)
  assert.throws(() => part.subarray(1), gone)
  for (const each of [array, array.data, part])
    await assert.rejects(py.call('zeros', [each]), {
      code: 'ERR_ISTHMUS_ENCODE',
      message: /was moved already/,
    })
  assert.equal(release(array), false)
})

test('a Buffer from sharp goes with exactly one copy', async () => {
  const background = { r: 40, g: 50, b: 60 }
  const pixels = await sharp({ create: { width: 300, height: 200, channels: 3, background } })
    .raw()
    .toBuffer()
  for (const sent of [pixels, new NDArray(pixels, [200, 300, 3])]) {
    const before = await copied()
    assert.equal(await py.call('brightness', [sent]), 50)
    assert.equal((await copied()) - before, pixels.length)
  }
})
