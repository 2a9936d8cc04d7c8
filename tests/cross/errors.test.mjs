// What can't travel says where it sits, and the call does not start; what Python raises arrives whole.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import {
  EncodeError,
  HostLostError,
  IsthmusError,
  kwargs,
  NDArray,
  NotExportedError,
  PythonError,
  spawn,
  TimeoutError,
} from 'isthmus'
import { privateDirectory } from './lib.mjs'

privateDirectory()
let py
before(async () => {
  py = await spawn(fileURLToPath(new URL('errors_host.py', import.meta.url)))
})
after(() => py?.close())

const nested = (depth, wrap) => {
  let all = 0
  for (let i = 0; i < depth; i++) all = wrap(all)
  return all
}
const circle = { rows: [1] }
circle.rows.push({ back: circle })
const mapCircle = new Map()
mapCircle.set('self', mapCircle)
class Money {
  amount = 5
}

const detached = new ArrayBuffer(16)
const views = [detached, new Float64Array(detached), new NDArray(new Int32Array(detached), [2, 2])]
structuredClone(detached, { transfer: [detached] })

// name, arguments, where, and a word of the message
const unsendable = [
  ['a symbol deep inside', [0, { rows: [1, 2, 3, { handle: Symbol('s') }] }], 'args[1].rows[3].handle'],
  ['a symbol', ['a', Symbol('s')], 'args[1]'],
  ['a symbol in a Map', [new Map([['key', [Symbol('s')]]])], /^args\[0\].*key.*\[0\]$/],
  ['a symbol in a Set', [new Set([Symbol('s')])], /^args\[0\]/],
  ['an invalid Date', [{ at: new Date(Number.NaN) }], 'args[0].at'],
  ['a Date before the year 1', [new Date(-62_135_596_800_001)], 'args[0]'],
  ['a Date after the year 9999', [[new Date(253_402_300_800_000)]], 'args[0][0]'],
  ['a cycle', [circle], 'args[0].rows[1].back', /cycle|itself/],
  ['a cycle through a Map', [mapCircle], /^args\[0\]/, /cycle|itself/],
  ['too deep an Array', [nested(129, v => [v])], /^args(\[0\]){10,}/, /128/],
  ['too deep an object', [nested(200, v => ({ v }))], /^args\[0\](\.v){10,}/, /128/],
  ['a far too deep Array', [nested(100_000, v => [v])], /^args/, /128/],
  ['a promise', [Promise.resolve(1)], 'args[0]'],
  ['a WeakMap', [{ w: new WeakMap() }], 'args[0].w'],
  ['a regular expression', [/x/], 'args[0]'],
  ['an instance of a class', [{ price: new Money() }], 'args[0].price'],
  ['a detached buffer', [{ of: views[0] }], 'args[0].of', /detached/],
  ['a view of a detached buffer', [1, [views[1]]], 'args[1][0]', /detached/],
  ['an NDArray of a detached buffer', [views[2]], 'args[0]', /detached/],
  ['a key that is no identifier', [{ 'a b': { 0: [Symbol('s')] } }], /^args\[0\].*a b.*0.*\[0\]$/],
]

for (const [name, args, path, message = /./] of unsendable) {
  test(`${name} is an EncodeError that says where it sits`, async () => {
    const expected = error => {
      assert.ok(error instanceof EncodeError, `${error}`)
      assert.ok(error instanceof IsthmusError)
      if (path instanceof RegExp) assert.match(error.path, path)
      else assert.equal(error.path, path)
      assert.match(error.message, message)
      assert.ok(error.message.includes(error.path.slice(0, 20)), error.message)
      assert.ok(error.message.length < 1000, 'the message is short')
      assert.equal(typeof error.code, 'string')
      return true
    }
    const calls = await py.call('calls')
    await assert.rejects(py.call('anything', args), expected)
    assert.throws(() => py.callSync('anything', args), expected)
    assert.throws(() => py.post('anything', args), expected)
    await assert.rejects(py.callMany('anything', [args, args]), error => error instanceof EncodeError)
    assert.equal(await py.call('calls'), calls, 'nothing was called')
  })
}

test('a named argument that cannot travel is named in the path', async () => {
  const expected = error => error instanceof EncodeError && /rows.*\[1\]$/.test(error.path)
  await assert.rejects(py.call('anything', [1], { kwargs: { rows: [1, Symbol('s')] } }), expected)
  await assert.rejects(async () => py.exports.anything(1, kwargs({ rows: [1, Symbol('s')] })), expected)
})

test('an exception of a getter is the exception of the call', async () => {
  const hostile = {
    get x() {
      throw new RangeError('from the getter')
    },
  }
  await assert.rejects(async () => py.call('anything', [hostile]), /from the getter/)
  assert.equal(await py.call('add', [1, 2]), 3)
})

test('128 levels travel', async () => {
  assert.deepEqual(
    await py.call('anything', [nested(128, v => [v])]),
    nested(128, v => [v]),
  )
})

const unreturnable = {
  cycle: /cycle|itself/,
  'cycle deep inside': /result.*rows.*\[2\].*handle/,
  'too deep': /128/,
}
for (const [name, message] of Object.entries(unreturnable)) {
  test(`a result that can't travel is the call's error: ${name}`, async () => {
    await assert.rejects(py.call('unreturnable', [name]), error => {
      assert.ok(error instanceof IsthmusError, `${error}`)
      assert.match(error.message, message)
      return true
    })
    assert.equal(await py.call('add', [1, 2]), 3)
  })
}

test('values that Python would confuse are refused, not changed', async () => {
  for (const confused of [
    new Set([1, true]),
    new Map([
      [1, 'a'],
      [true, 'b'],
    ]),
    new Map([
      [0, 'a'],
      [false, 'b'],
    ]),
  ]) {
    await assert.rejects(py.call('anything', [confused]), IsthmusError)
  }
})

test('values that Python cannot hash are refused as keys and members', async () => {
  for (const unhashable of [
    new Set([{}]),
    new Set([new Map()]),
    new Map([[{}, 2]]),
    new Map([[Int8Array.of(1), 2]]),
  ]) {
    await assert.rejects(py.call('anything', [unhashable]), IsthmusError)
  }
})

test('a Python exception arrives with its type, message, traceback, arguments and cause', async () => {
  for (const call of [
    () => py.call('fail', [7]),
    async () => py.callSync('fail', [7]),
    () => py.callMany('fail', [[7]]),
  ]) {
    await assert.rejects(call, error => {
      assert.ok(error instanceof PythonError && error instanceof IsthmusError && error instanceof Error)
      assert.equal(error.type, 'ValueError')
      assert.match(error.message, /seven: 7/)
      assert.match(error.traceback, /errors_host\.py", line \d+, in fail/)
      assert.deepEqual(error.args, ['seven: 7', 7])
      assert.ok(error.cause instanceof PythonError)
      assert.equal(error.cause.type, 'KeyError')
      assert.equal(typeof error.code, 'string')
      return true
    })
  }
})

const raised = {
  'str of it fails': 'Unprintable',
  'arguments that cannot travel': 'ValueError',
  'a BaseException': 'Halt',
  KeyboardInterrupt: 'KeyboardInterrupt',
  SystemExit: 'SystemExit',
  StopIteration: 'StopIteration',
  MemoryError: 'MemoryError',
  RecursionError: 'RecursionError',
  'an ExceptionGroup or its like': 'Several',
  'a cycle of causes': 'ValueError',
  'a lone surrogate in the message': 'ValueError',
  'a megabyte of message': 'ValueError',
}
for (const [name, type] of Object.entries(raised)) {
  test(`an exception: ${name}`, async () => {
    await assert.rejects(py.call('raise_it', [name]), error => {
      assert.ok(error instanceof PythonError, `${error}`)
      assert.equal(error.type, type)
      return true
    })
    assert.equal(await py.call('add', [1, 2]), 3, 'the host serves on')
  })
}

test('an unknown export is an error that names what is close', async () => {
  for (const call of [
    () => py.call('ad', [1, 2]),
    async () => py.callSync('ad', [1, 2]),
    () => py.exports.ad(1, 2),
  ]) {
    await assert.rejects(call, error => error instanceof NotExportedError && /\badd\b/.test(error.message))
  }
})

test('wrong arguments are a TypeError of Python', async () => {
  await assert.rejects(
    py.call('add', [1]),
    error => error instanceof PythonError && error.type === 'TypeError',
  )
  await assert.rejects(
    py.call('add', [1], { kwargs: { c: 3 } }),
    error => error instanceof PythonError && error.type === 'TypeError',
  )
})

test('one failing call spares the others of its batch', async () => {
  const calls = Array.from({ length: 300 }, (_, i) =>
    i % 3 === 0 ? py.call('fail', [i]) : py.call('add', [i, 1]),
  )
  const ended = await Promise.allSettled(calls)
  for (const [i, { status, value, reason }] of ended.entries()) {
    if (i % 3 === 0) assert.ok(status === 'rejected' && reason.args[1] === i)
    else assert.equal(value, i + 1)
  }
})

test('callMany keeps its order, and gives errors their places when settled', async () => {
  const sets = Array.from({ length: 3000 }, (_, i) => [i, 1])
  assert.deepEqual(
    await py.callMany('add', sets),
    sets.map(([i]) => i + 1),
  )
  const settled = await py.callMany(
    'add',
    [
      [1, 2],
      [1, 'x'],
      [3, 4],
    ],
    { settled: true },
  )
  assert.deepEqual([settled[0], settled[2]], [3, 7])
  assert.ok(settled[1] instanceof PythonError && settled[1].type === 'TypeError')
  assert.deepEqual(await py.callMany('add', []), [])
})

test('callSync rejects when its time is out', async () => {
  assert.throws(() => py.callSync('sleep', [0.3], { timeout: 30 }), TimeoutError)
  assert.equal(await py.call('add', [1, 2]), 3)
})

test('an abort rejects with its reason', async () => {
  const controller = new AbortController()
  const reason = new Error('changed my mind')
  const call = py.call('sleep', [0.3], { signal: controller.signal })
  controller.abort(reason)
  await assert.rejects(call, error => error === reason)
  await assert.rejects(
    py.call('add', [1, 2], { signal: AbortSignal.abort(reason) }),
    error => error === reason,
  )
  assert.equal(await py.call('add', [1, 2]), 3)
})

test('a failing post disturbs nobody', async () => {
  py.post('fail', [1])
  py.post('no_such_export', [1])
  assert.equal(await py.call('add', [1, 2]), 3)
})

test('calls after close are errors, and closing twice is not', async () => {
  const other = await spawn(fileURLToPath(new URL('errors_host.py', import.meta.url)))
  const pending = assert.rejects(other.call('sleep', [5]), IsthmusError)
  await other.close()
  await other.close()
  await pending
  await assert.rejects(async () => other.call('add', [1, 2]), IsthmusError)
  assert.throws(() => other.callSync('add', [1, 2]), IsthmusError)
  assert.ok(HostLostError.prototype instanceof IsthmusError)
})
