// There and back, for values nobody thought of: equal, or an error with its path.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { EncodeError, NDArray } from 'isthmus'
import { examples } from './lib.mjs'
import { js, py } from './property.mjs'
import { difference } from './same.mjs'

const units = fc.array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 40 })
const text = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.string(),
  units.map(codes => String.fromCharCode(...codes)),
)
const unsafe = fc
  .bigInt({ min: -(2n ** 300n), max: 2n ** 300n })
  .filter(n => n > 2n ** 53n - 1n || n < 1n - 2n ** 53n)
const date = fc.date({
  min: new Date(-62_135_596_800_000),
  max: new Date(253_402_300_799_999),
  noInvalidDate: true,
})
const typedArray = fc.oneof(
  ...[fc.int8Array, fc.uint8Array, fc.int16Array, fc.uint16Array, fc.int32Array, fc.uint32Array].map(of =>
    of({ maxLength: 1500 }),
  ),
  fc.float32Array({ maxLength: 1500 }),
  fc.float64Array({ maxLength: 1500 }),
  fc.bigInt64Array({ maxLength: 600 }),
  fc.bigUint64Array({ maxLength: 600 }),
)
const ndarray = fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 2, maxLength: 5 }).chain(shape => {
  const length = shape.reduce((product, n) => product * n, 1)
  return fc.int16Array({ minLength: length, maxLength: length }).map(data => new NDArray(data, shape))
})
const key = fc.oneof(
  text,
  fc.maxSafeInteger(),
  fc.double({ noInteger: true, noNaN: true }),
  fc.constant(null),
  unsafe,
)

// A Map whose keys are all strings comes back as an object, so one key is not
const { value } = fc.letrec(tie => ({
  value: fc.oneof(
    { maxDepth: 5, depthIdentifier: 'value' },
    fc.constant(null),
    fc.boolean(),
    fc.maxSafeInteger(),
    fc.double(),
    unsafe,
    text,
    date,
    typedArray,
    ndarray,
    fc.uniqueArray(key, { maxLength: 8 }).map(members => new Set(members)),
    fc.array(tie('value'), { maxLength: 8, depthIdentifier: 'value' }),
    fc.dictionary(text, tie('value'), { maxKeys: 8, depthIdentifier: 'value' }),
    fc
      .uniqueArray(fc.tuple(key, tie('value')), {
        selector: ([k]) => k,
        maxLength: 8,
        depthIdentifier: 'value',
      })
      .map(entries => new Map([...entries, [0.5, 'a key that is no string']])),
  ),
}))
const equal = (actual, expected) => assert.equal(difference(actual, expected), null)

test('any value that Python can hold comes back as it was', () => {
  fc.assert(
    fc.property(value, v => equal(py.callSync('echo', [v]), v)),
    examples(3000),
  )
})

test('any value that Python can hold comes back from JavaScript as it was', () => {
  fc.assert(
    fc.property(value, v => equal(js.peer.callSync('echo', [v]), v)),
    examples(1000),
  )
})

test('any value goes through a callback and back', async () => {
  const property = fc.asyncProperty(value, async v => {
    for (const peer of [py, js.peer]) {
      let seen
      const callback = x => {
        seen = x
        return x
      }
      equal(await peer.call('apply', [callback, v]), v)
      equal(seen, v)
    }
  })
  await fc.assert(property, examples(500))
})

test('any values stream there and back', async () => {
  const property = fc.asyncProperty(fc.array(value, { maxLength: 30 }), async values => {
    for (const peer of [py, js.peer]) {
      const backs = []
      for await (const v of await peer.call('restream', [values.values()])) backs.push(v)
      equal(backs, values)
    }
  })
  await fc.assert(property, examples(150))
})

const identifier = fc.stringMatching(/^[a-z_][a-z0-9_]{0,5}$/)
const unsendable = fc.constantFrom(Symbol('s'), new WeakMap(), Promise.resolve(), /x/, new Date(Number.NaN))

test('any value that cannot travel is an error with its path, and nothing is called', () => {
  const step = fc.oneof(fc.integer({ min: 0, max: 3 }), identifier)
  const property = fc.property(
    fc.array(step, { maxLength: 20 }),
    fc.integer({ min: 0, max: 3 }),
    unsendable,
    value,
    (path, position, culprit, other) => {
      let v = culprit
      for (const at of path.toReversed()) {
        v = typeof at === 'string' ? { [`${at}_`]: other, [at]: v } : [...Array(at).fill(other), v]
      }
      const shown = path.map(at => (typeof at === 'string' ? `.${at}` : `[${at}]`)).join('')
      const isIt = error => error instanceof EncodeError && error.path === `args[${position}]${shown}`
      for (const peer of [py, js.peer]) {
        assert.throws(() => peer.callSync('echo', [...Array(position).fill(other), v]), isIt)
      }
    },
  )
  fc.assert(property, examples(500))
})

test('any arguments arrive in their places, with others in flight', async () => {
  const property = fc.asyncProperty(
    fc.array(fc.array(value, { maxLength: 4 }), { maxLength: 30 }),
    async sets => {
      const back = await Promise.all(sets.map(args => py.call('arguments', args)))
      equal(back, sets)
      equal(await py.callMany('arguments', sets), sets)
    },
  )
  await fc.assert(property, examples(150))
})

test('any named arguments arrive under their names', () => {
  const property = fc.property(fc.dictionary(fc.string(), value), named =>
    equal(py.callSync('named', [], { kwargs: named }), named),
  )
  fc.assert(property, examples(300))
})

test('any value that Python makes comes back to it as it was', async () => {
  const count = await py.call('generate', [examples(800).numRuns])
  assert.ok(count >= examples(400).numRuns)
  for (let i = 0; i < count; i++) {
    const complaint = py.callSync('compare', [i, py.callSync('generated', [i])])
    assert.equal(complaint, null)
  }
})
