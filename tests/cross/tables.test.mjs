// Tables nobody thought of, there and back; and tables that are handed on.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as arrow from 'apache-arrow'
import fc from 'fast-check'
import { connect, release } from 'isthmus'
import { collect, examples, until } from './lib.mjs'
import { js, py } from './property.mjs'

const plain = value => {
  if (value === null || typeof value !== 'object') return value
  if (value instanceof arrow.Vector || ArrayBuffer.isView(value)) return Array.from(value, plain)
  return Object.fromEntries([...value].map(([key, inner]) => [key, plain(inner)]))
}
const columns = table => table.schema.fields.map((_, i) => plain(table.getChildAt(i)))
const fields = table => table.schema.fields.map(({ name, type, nullable }) => [name, String(type), nullable])
const equal = (back, table) => {
  assert.deepEqual(fields(back), fields(table))
  assert.deepEqual(columns(back), columns(table))
}

const bytes = fc.uint8Array({ maxLength: 20 })
const simple = fc.constantFrom(
  [new arrow.Bool(), fc.boolean()],
  [new arrow.Int8(), fc.integer({ min: -128, max: 127 })],
  [new arrow.Uint32(), fc.nat()],
  [new arrow.Int64(), fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })],
  [new arrow.Float64(), fc.double({ noNaN: true })],
  [new arrow.Float32(), fc.float({ noNaN: true })],
  [new arrow.DateMillisecond(), fc.date({ noInvalidDate: true })],
  [new arrow.TimestampMicrosecond('UTC'), fc.nat()],
  [new arrow.DurationSecond(), fc.bigInt({ min: 0n, max: 2n ** 40n })],
  [new arrow.Utf8(), fc.string({ unit: 'grapheme', maxLength: 20 })],
  [new arrow.LargeUtf8(), fc.string({ maxLength: 20 })],
  [new arrow.Utf8View(), fc.string({ maxLength: 20 })],
  [new arrow.Binary(), bytes],
  [new arrow.FixedSizeBinary(3), fc.uint8Array({ minLength: 3, maxLength: 3 })],
  [new arrow.Dictionary(new arrow.Utf8(), new arrow.Int16()), fc.constantFrom('a', 'b', 'longer')],
)
const field = type => new arrow.Field('item', type, true)
const column = fc.oneof(
  { depthSize: 'small', withCrossShrink: true },
  simple,
  simple
    .filter(([type]) => type.typeId > 0)
    .map(([type, value]) => [new arrow.List(field(type)), fc.array(fc.option(value), { maxLength: 4 })]),
  simple
    .filter(([type]) => type.typeId > 0)
    .map(([type, value]) => [new arrow.Struct([field(type)]), fc.record({ item: fc.option(value) })]),
)
const table = fc
  .tuple(fc.array(column, { minLength: 1, maxLength: 3 }), fc.nat(40), fc.boolean())
  .chain(([kinds, rows, doubled]) =>
    fc
      .tuple(...kinds.map(([, value]) => fc.array(fc.option(value), { minLength: rows, maxLength: rows })))
      .map(values => {
        const vectors = kinds.map(([type], i) => [`c${i}`, arrow.vectorFromArray(values[i], type)])
        const made = new arrow.Table(Object.fromEntries(vectors))
        return doubled ? made.concat(made) : made
      }),
  )
const part = fc.tuple(table, fc.nat(80), fc.nat(80)).map(([whole, from, to]) => whole.slice(from, to))

test('any table comes back from Python and from JavaScript as it was', () => {
  const property = fc.property(fc.oneof(table, part), each => {
    for (const peer of [py, js.peer]) {
      const back = peer.callSync('echo', [each])
      equal(back, each)
      // What was received has its rows elsewhere than what is made here.
      const rest = back.slice(1)
      equal(peer.callSync('echo', [rest]), rest)
    }
  })
  fc.assert(property, examples(1000))
})

test('a table is handed on from isolate to isolate without a copy, and outlives the one that had it first', async () => {
  const x = js.peer.alloc(Float64Array, 100_000).fill(0.5)
  const own = new arrow.Table({ x: arrow.makeVector(x) })
  const copied = async () => {
    const { self, host } = await js.peer.stats()
    return self.bytes_copied + (host?.bytes_copied ?? 0)
  }
  const before = await copied()
  await js.peer.call('keep', [own])
  release(x)
  const third = await connect(js.name)
  const back = await third.call('take', [])
  await js.peer.call('drop')
  for (let i = 0; i < 20; i++) js.peer.alloc(Float64Array, 100_000).fill(-1)
  await collect()
  const values = back.getChild('x').toArray()
  assert.ok(values.buffer instanceof SharedArrayBuffer)
  assert.equal(values.length, 100_000)
  assert.ok(values.every(value => value === 0.5))
  assert.equal(await copied(), before)
  await third.close()
})

test('tables come and go by the thousand, and nothing is left', async () => {
  const held = async () => {
    const { leases_taken, leases_released } = (await py.stats()).self
    return leases_taken - leases_released
  }
  const own = arrow.tableFromArrays({ x: new Float64Array(2000), i: new Int8Array(2000) })
  const comeAndGo = async i => {
    const back = await py.call('echo', [own])
    assert.equal(back.numRows, 2000)
    if (i % 2 === 0) release(back)
  }
  await collect()
  const before = await held()
  for (let i = 0; i < 1000; i++) {
    await comeAndGo(i)
    if (i % 200 === 199) await collect()
  }
  await until('all is given back', 20_000, async () => {
    await collect()
    await py.call('echo', [1])
    return (await held()) <= before
  })
})
