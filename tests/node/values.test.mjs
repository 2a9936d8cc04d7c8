import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { runInNewContext } from 'node:vm'
import { EncodeError, NDArray, spawn } from 'isthmus'
import { app } from './support.mjs'

let py
before(async () => {
  py = await spawn(app)
})
after(() => py.close())

const big = 2n ** 200n

const unchanged = {
  'the integers around every border': [
    0,
    1,
    -1,
    127,
    2 ** 31 - 1,
    2 ** 31,
    -(2 ** 31),
    -(2 ** 31) - 1,
    2 ** 32,
  ],
  'the safe integers': [Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER, 2 ** 52],
  'numbers with fractions, and those that are no numbers': [
    0.1,
    -0.5,
    1e308,
    5e-324,
    Number.NaN,
    1 / 0,
    -1 / 0,
  ],
  'minus zero': [-0],
  'bigints of any size that are no safe number': [
    big,
    -big,
    2n ** 63n,
    -(2n ** 63n),
    2n ** 64n,
    -(2n ** 63n) - 1n,
    2n ** 53n,
  ],
  'null and booleans': [null, true, false],
  texts: [
    '',
    'a',
    'plain',
    'ü',
    'x'.repeat(47),
    'x'.repeat(49),
    `${'x'.repeat(47)}é`,
    '日本語',
    '😀',
    '\ufffd',
    '\0',
  ],
  'lone surrogates': ['\ud800', 'a\udc00b', '\udc00\ud800', '\ud83d', `${'x'.repeat(100)}\ud800é😀`],
  'arrays in arrays': [[], [[]], [1, [2, [3, ['x']]]], [null, true]],
  'objects in objects': [{}, { a: 1, b: { c: [{ d: 'e' }] } }, { '': 1, 'with space': 2, ünïcode: 3 }],
  'maps with keys of any kind': [
    new Map([
      [1, 'a'],
      ['b', 2],
      [false, null],
      [2.5, new Map([[null, []]])],
    ]),
  ],
  sets: [new Set([1, 'a', null]), new Set()],
  dates: [new Date(0), new Date(1_700_000_000_123), new Date(-1)],
  'a long text': ['x'.repeat(300_000), 'é'.repeat(300_000), '😀'.repeat(100_000)],
  'many values': [
    Array.from({ length: 20_000 }, (_, i) => i * 3.5),
    Array.from({ length: 3000 }, (_, i) => `${i}`),
  ],
}

for (const [what, values] of Object.entries(unchanged)) {
  test(`${what} come back as they were`, async () => {
    for (const value of values) {
      assert.deepStrictEqual(await py.call('same', [value]), value)
      assert.deepStrictEqual(py.callSync('same', [value]), value)
    }
  })
}

const typed = [
  new Int8Array([-128, 127]),
  new Uint8Array([0, 255]),
  new Int16Array([-32768]),
  new Uint16Array([65535]),
  new Int32Array([-(2 ** 31)]),
  new Uint32Array([2 ** 32 - 1]),
  new Float32Array([0.5, Number.NaN]),
  new Float64Array([0.1, -0]),
  new BigInt64Array([-(2n ** 63n)]),
  new BigUint64Array([2n ** 64n - 1n]),
  new Float64Array(0),
]

test('typed arrays come back as they were, small and large', async () => {
  for (const view of typed) {
    assert.deepStrictEqual(await py.call('same', [view]), view)
    const large = new view.constructor(5000).fill(view[0] ?? 0)
    assert.deepStrictEqual(await py.call('same', [large]), large)
    assert.deepStrictEqual(await py.call('same', [large.subarray(7, 4000)]), large.subarray(7, 4000))
  }
})

test('typed arrays are numpy arrays of their dtype in Python', async () => {
  for (const [view, dtype] of [
    [new Int16Array(3), 'int16'],
    [new BigUint64Array(1), 'uint64'],
    [new Float32Array(2), 'float32'],
    [new Uint8ClampedArray(2), 'uint8'],
  ]) {
    assert.deepStrictEqual(await py.call('describe', [view]), {
      dtype,
      shape: [view.length],
      writeable: false,
    })
  }
})

test('bytes of every kind come back as Uint8Array', async () => {
  const bytes = new Uint8Array([1, 2, 3])
  const shared = new SharedArrayBuffer(3)
  new Uint8Array(shared).set(bytes)
  for (const value of [Buffer.from(bytes), bytes.buffer, new DataView(bytes.buffer), shared]) {
    assert.deepStrictEqual(await py.call('same', [value]), bytes)
    assert.equal(await py.call('kind', [value]), 'memoryview')
  }
  const large = Buffer.alloc(100_000, 7)
  assert.deepStrictEqual(await py.call('same', [large]), new Uint8Array(large))
})

test('an NDArray keeps its shape', async () => {
  const array = new NDArray(new Float32Array([1, 2, 3, 4, 5, 6]), [2, 3])
  assert.deepStrictEqual(await py.call('describe', [array]), {
    dtype: 'float32',
    shape: [2, 3],
    writeable: false,
  })
  const back = await py.call('same', [array])
  assert.ok(back instanceof NDArray)
  assert.deepStrictEqual(back, array)
  assert.equal(back.at(1, 0), 4)
  assert.equal(back.at(-1, -1), 6)
})

test('an NDArray tells in which order its elements lie', async () => {
  for (const order of ['C', 'F']) {
    const grid = await py.call('grid', [3, 4, order])
    assert.deepEqual(grid.shape, [3, 4])
    for (let row = 0; row < 3; ++row) {
      for (let column = 0; column < 4; ++column) assert.equal(grid.at(row, column), row * 4 + column)
    }
  }
})

test('arrays whose dtype has no typed array are NDArrays that tell it', async () => {
  const { truths, complex, scalar, empty } = await py.call('oddities')
  assert.equal(truths.dtype, 'bool')
  assert.deepEqual([truths.at(0), truths.at(1)], [true, false])
  assert.equal(complex.dtype, 'complex128')
  assert.deepEqual(complex.at(1), { re: 3, im: -4 })
  assert.deepEqual([scalar.shape, scalar.at()], [[], 7])
  assert.deepEqual([empty.shape, empty.dtype, empty.data.length], [[0, 3], 'int16', 0])
  assert.deepStrictEqual(await py.call('same', [complex]), complex)
  assert.deepEqual(await py.call('describe', [truths]), { dtype: 'bool', shape: [3], writeable: false })
})

test('undefined arrives as None and comes back as null', async () => {
  assert.equal(await py.call('kind', [undefined]), 'NoneType')
  assert.deepStrictEqual(await py.call('same', [[undefined, { a: undefined }]]), [null, { a: null }])
})

test('numbers are int or float as they are integers or not', async () => {
  for (const value of [0, 5, -(2 ** 40), 10n, 2n ** 70n]) assert.equal(await py.call('kind', [value]), 'int')
  for (const value of [-0, 0.5, Number.NaN, 2 ** 60, 1e300])
    assert.equal(await py.call('kind', [value]), 'float')
})

test('a bigint that is a safe number comes back as a number', async () => {
  assert.deepStrictEqual(await py.call('same', [[5n, -(2n ** 52n)]]), [5, -(2 ** 52)])
})

test('an object with a key __proto__ pollutes nothing', async () => {
  const sent = JSON.parse('{"__proto__": {"polluted": true}, "constructor": 1}')
  const back = await py.call('same', [sent])
  assert.deepStrictEqual(back, sent)
  assert.equal(back.polluted, undefined)
  assert.equal({}.polluted, undefined)
})

test('objects without a prototype and of another realm travel', async () => {
  const bare = Object.assign(Object.create(null), { a: 1 })
  assert.deepStrictEqual(await py.call('same', [bare]), { a: 1 })
  const foreign = runInNewContext('({ a: [1, new Date(5)], m: new Map([[1, 2]]) })')
  assert.deepStrictEqual(await py.call('same', [foreign]), { a: [1, new Date(5)], m: new Map([[1, 2]]) })
})

test('what can not travel is an error that says where it sits, and the call does not start', async () => {
  class Thing {}
  const cycle = { list: [] }
  cycle.list.push({ back: cycle })
  let deep = []
  for (let i = 0; i < 200; ++i) deep = [deep]
  const cases = [
    [[1, { rows: [0, 1, 2, { handle: Symbol('x') }] }], 'args[1].rows[3].handle'],
    [[new Thing()], 'args[0]'],
    [[new Map([['key', new WeakMap()]])], 'args[0].key'],
    [[new Map([[new Thing(), 1]])], 'args[0].keys[0]'],
    [[new Set([1, Symbol('x')])], 'args[0][1]'],
    [[{ 'not an identifier': Symbol('x') }], 'args[0]["not an identifier"]'],
    [[cycle], 'args[0].list[0].back'],
    [[new Date(Number.NaN)], 'args[0]'],
    [[{ [Symbol('key')]: 1 }], 'args[0]'],
    [[deep], `args[0]${'[0]'.repeat(128)}`],
    [[Promise.resolve(1)], 'args[0]'],
  ]
  await py.call('take_posted')
  for (const [args, path] of cases) {
    const isRight = error => {
      assert.ok(error instanceof EncodeError)
      assert.equal(error.path, path)
      assert.equal(error.code, 'ERR_ISTHMUS_ENCODE')
      assert.ok(error.message.startsWith(path))
      return true
    }
    await assert.rejects(py.call('post', args), isRight)
    assert.throws(() => py.callSync('post', args), isRight)
    assert.throws(() => py.post('post', args), isRight)
  }
  await assert.rejects(py.call('named', [], { kwargs: { a: [Symbol('x')] } }), { path: 'kwargs.a[0]' })
  assert.deepStrictEqual(await py.call('take_posted'), [])
  assert.equal(await py.call('add', [1, 2]), 3)
})

test('a getter that throws, or calls Python itself, does no harm', async () => {
  const throwing = {
    a: [1, 2, new Float64Array(5000)],
    get b() {
      throw new RangeError('from a getter')
    },
  }
  await assert.rejects(py.call('same', [throwing]), RangeError)
  const calling = {
    before: 'text before',
    bytes: new Uint8Array(4000).fill(1),
    get inner() {
      return py.callSync('same', [{ x: ['text within', new Uint8Array(4000).fill(2)] }])
    },
    after: ['text after', new Uint8Array(4000).fill(3), new Uint8Array(10).fill(4)],
  }
  assert.deepStrictEqual(await py.call('same', [calling]), { ...calling })
})

test('a Map of texts alone is a dict of them, which comes back as an object', async () => {
  assert.equal(await py.call('kind', [new Map([['a', 1]])]), 'dict')
  assert.deepStrictEqual(await py.call('same', [new Map([['a', 1]])]), { a: 1 })
})

test('named arguments arrive as such', async () => {
  assert.deepStrictEqual(await py.call('named', [1, 'a'], { kwargs: { x: 2, y: [3] } }), [
    [1, 'a'],
    { x: 2, y: [3] },
  ])
  assert.deepStrictEqual(py.callSync('named', [], { kwargs: { only: null } }), [[], { only: null }])
})
