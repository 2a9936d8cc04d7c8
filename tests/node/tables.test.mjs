// Tables of Python are Tables of apache-arrow over the same bytes, and the other way round.

import assert from 'node:assert/strict'
import { cp, mkdir, mkdtemp, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import * as arrow from 'apache-arrow'
import { isRemote, kwargs, release, spawn, toTable } from 'isthmus'
import { collectGarbage, root, run, until } from './support.mjs'

const app = fileURLToPath(new URL('./tables_app.py', import.meta.url))
let py
before(async () => {
  py = await spawn(app)
})
after(() => py.close())

const copied = async () => {
  const { self, host } = await py.stats()
  return self.bytes_copied + host.bytes_copied
}
const held = async () => {
  const { leases_taken, leases_released } = (await py.stats()).self
  return leases_taken - leases_released
}

/** The rows of a column as plain values. */
const plain = value => {
  if (value === null || typeof value !== 'object') return value
  if (value instanceof arrow.MapRow || value instanceof arrow.StructRow) {
    return Object.fromEntries([...value].map(([key, inner]) => [key, plain(inner)]))
  }
  return value[Symbol.iterator] ? Array.from(value, plain) : value
}
const column = (table, name = 'column') => plain(table.getChild(name))
const inBus = data =>
  [data.values, data.valueOffsets, data.nullBitmap].every(
    each => !each?.length || each.buffer instanceof SharedArrayBuffer,
  )

const noon = Date.UTC(2024, 1, 29, 12, 30, 15)
const day = Date.UTC(2024, 1, 29)
const texts = ['é', null, 'longer than twelve bytes']
const expected = {
  n: ['Null', [null, null, null]],
  b: ['Bool', [true, null, false]],
  i8: ['Int8', [-1, null, 2]],
  u16: ['Uint16', [1, null, 65535]],
  i32: ['Int32', [-1, null, 2]],
  i64: ['Int64', [-1n, null, 2n ** 60n]],
  u64: ['Uint64', [1n, null, 2n ** 64n - 1n]],
  f16: ['Float16', [1.5, null, -2]],
  f32: ['Float32', [1.5, null, -2]],
  f64: ['Float64', [1.5, null, -2]],
  s: ['Utf8', texts],
  ls: ['LargeUtf8', texts],
  vs: ['Utf8View', texts],
  z: ['Binary', [[97, 0], null, []]],
  w: ['FixedSizeBinary[2]', [[97, 98], null, [99, 100]]],
  day: ['Date32<DAY>', [day, null, day]],
  day64: ['Date64<MILLISECOND>', [day, null, day]],
  t: ['Time64<MICROSECOND>', [45_015_000_000n, null, 45_015_000_000n]],
  ts: ['Timestamp<MILLISECOND, UTC>', [noon, null, noon]],
  ns: ['Timestamp<NANOSECOND>', [noon, null, noon]],
  dur: ['Duration<MILLISECOND>', [1000n, null, 0n]],
  mdn: ['Interval<MONTH_DAY_NANO>', [[1, 2, 3, 0], null, [4, 5, 6, 0]]],
  dec: ['Decimal[10e+2]', [[1234, 0, 0, 0], null, [2 ** 32 - 1, 2 ** 32 - 1, 2 ** 32 - 1, 2 ** 32 - 1]]],
  dic: ['Dictionary<Int32, Utf8>', ['x', null, 'y']],
  l: ['List<Int32>', [[1, null], null, []]],
  ll: ['LargeList<Utf8>', [['a'], null, []]],
  fl: ['FixedSizeList[2]<Int16>', [[1, 2], null, [3, null]]],
  st: ['Struct<{x:Float64, name:Utf8}>', [{ x: 1.5, name: 'a' }, null, { x: null, name: null }]],
  m: ['Map<{key:Utf8, value:Int32}>', [{ a: 1, b: null }, null, {}]],
}

test('a column of each type is what it was in Python', async () => {
  assert.deepEqual(await py.call('kinds'), Object.keys(expected))
  for (const [kind, [type, values]] of Object.entries(expected)) {
    for (const times of [1, 1000]) {
      const table = await py.call('typed', [kind, times])
      assert.ok(table instanceof arrow.Table)
      const field = table.schema.fields[0]
      assert.deepEqual([kind, field.name, String(field.type), field.nullable], [kind, 'column', type, true])
      assert.deepEqual([kind, column(table).slice(-3)], [kind, values])
      assert.equal(table.numRows, 3 * times)
    }
  }
})

test('a column of each type, and each part of it, goes back as it came', async () => {
  for (const kind of Object.keys(expected)) {
    const table = await py.call('typed', [kind, 20])
    assert.ok(await py.call('is_typed', [kind, table]), kind)
    for (const [start, stop] of [
      [1, 8],
      [3, 60],
      [16, 20],
      [59, 60],
      [30, 30],
    ]) {
      const part = table.slice(start, stop)
      assert.ok(await py.call('is_typed', [kind, part, start, stop]), `${kind} ${start} ${stop}`)
      const back = await py.call('same', [part])
      assert.deepEqual(column(back), column(part), `${kind} ${start} ${stop}`)
      assert.deepEqual(column(back.slice(1, 3)), column(part).slice(1, 3), kind)
    }
  }
})

test('DataFrames of pandas and polars are Tables', async () => {
  for (const library of ['pandas', 'polars']) {
    const table = await py.call('frame', [library])
    assert.deepEqual(column(table, 'city'), ['Ghent', null, 'Uppsala, and more'])
    assert.deepEqual(column(table, 'area'), [156.25, 41, null])
  }
  assert.match((await py.call('frame', ['pandas'])).schema.metadata.get('pandas'), /"column_indexes"/)
})

test('a Table made here is a pyarrow.Table', async () => {
  const table = arrow.tableFromArrays({
    x: Float64Array.of(1, 2, 3),
    i: Int32Array.of(4, 5, 6),
    s: ['a', 'b', 'a'],
  })
  const types = ['double', 'int32', 'dictionary<values=string, indices=int32, ordered=0>']
  const [library, count, names, kinds] = await py.call('described', [table])
  assert.deepEqual([library, count, names], ['pyarrow.lib', 3, ['x', 'i', 's']])
  assert.deepEqual(kinds.slice(0, 3), types)
  const back = await py.call('same', [table])
  for (const name of names) assert.deepEqual(column(back, name), column(table, name))
  const [batch] = table.batches
  assert.deepEqual((await py.call('described', [batch])).slice(0, 2), ['pyarrow.lib', 3])
})

test('a dictionary in several pieces goes as one', async () => {
  const type = new arrow.Dictionary(new arrow.Utf8(), new arrow.Int8())
  const pieces = ['x', 'y'].map(text => arrow.vectorFromArray([text], new arrow.Utf8()).data[0])
  const dictionary = new arrow.Vector(pieces)
  const data = arrow.makeData({ type, data: Int8Array.of(1, 0, 1), dictionary })
  const table = new arrow.Table({ c: new arrow.Vector([data]) })
  assert.deepEqual(column(await py.call('same', [table]), 'c'), ['y', 'x', 'y'])
})

test('batches, metadata and tables without rows or columns stay what they were', async () => {
  const table = await py.call('numbers', [10, 3])
  assert.deepEqual(
    table.batches.map(batch => batch.numRows),
    [10, 10, 10],
  )
  const told = new arrow.Table(
    new arrow.Schema(
      [new arrow.Field('x', new arrow.Int8(), false, new Map([['unit', 'm']]))],
      new Map([['about', 'é']]),
    ),
  )
  for (const each of [table, told, new arrow.Table(), table.slice(30)]) {
    const back = await py.call('same', [each])
    assert.equal(back.numRows, each.numRows)
    assert.deepEqual(back.schema.metadata, each.schema.metadata)
    assert.equal(String(back.schema), String(each.schema))
    assert.deepEqual(
      back.schema.fields.map(field => [field.nullable, field.metadata]),
      each.schema.fields.map(field => [field.nullable, field.metadata]),
    )
  }
})

test('what numpy computed into the bus is a column without a copy, there and back', async () => {
  const before = await copied()
  const table = await py.call('numbers', [50_000])
  assert.ok(table.batches[0].data.children.every(inBus))
  assert.equal(table.getChild('x').get(49_999), 49_999)
  assert.equal(await py.call('total', [table, 'x']), (49_999 * 50_000) / 2)
  const back = await py.call('same', [table])
  assert.equal(back.getChild('x').data[0].values.byteOffset, table.getChild('x').data[0].values.byteOffset)
  assert.equal((await copied()) - before, 0)
})

test('other buffers are copied once, to the byte', async () => {
  const rows = 10_000
  const bytes = Array.from({ length: rows }, (_, i) => `text ${i}`).join('').length
  const before = await copied()
  const table = await py.call('texts', [rows])
  assert.equal((await copied()) - before, 4 * (rows + 1) + bytes)
  assert.equal(table.getChild('s').get(9999), 'text 9999')
  const own = arrow.tableFromArrays({ x: new Float64Array(rows) })
  const between = await copied()
  await py.call('keep', [own])
  assert.equal((await copied()) - between, 8 * rows)
})

test('a column over allocated memory goes without a copy', async () => {
  const x = py.alloc(Float64Array, 10_000).fill(0.5)
  const before = await copied()
  const table = new arrow.Table({ x: arrow.makeVector(x) })
  assert.equal(await py.call('total', [table, 'x']), 5000)
  assert.equal(await py.call('total', [table.slice(10, 20), 'x']), 5)
  assert.equal((await copied()) - before, 0)
})

test('a part of a table takes no more along than itself', async () => {
  const own = arrow.tableFromArrays({ n: new Int32Array(1) }) // the shape that the next one has
  const s = arrow.vectorFromArray(
    Array.from({ length: 20_000 }, (_, i) => String(i).padStart(100, '0')),
    new arrow.Utf8(),
  )
  const table = new arrow.Table({ s }).slice(10_003, 10_103)
  const before = await copied()
  const back = await py.call('same', [table])
  assert.deepEqual(column(back, 's'), column(table, 's'))
  assert.ok((await copied()) - before < 100 * 110, `${(await copied()) - before} bytes`)
  assert.equal(own.numRows, 1)
})

test('a column keeps its memory, and so does a part of one', async () => {
  const before = await held()
  let x = (await py.call('numbers', [100_000])).getChild('x').toArray().subarray(50_000, 50_010)
  await collectGarbage()
  for (let i = 0; i < 20; ++i) py.alloc(Float64Array, 100_000).fill(-1)
  await collectGarbage()
  assert.deepEqual(
    [...x],
    Array.from({ length: 10 }, (_, i) => 50_000 + i),
  )
  x = undefined
  await until('all is given back', async () => {
    await collectGarbage()
    await py.call('add', [1, 1])
    return (await held()) <= before
  })
})

test('a table can be given back at once, and can not be sent any more', async () => {
  const before = await held()
  const table = await py.call('numbers', [10_000])
  assert.equal(release(table), true)
  assert.equal(release(table), false)
  await assert.rejects(py.call('same', [table]), { code: 'ERR_ISTHMUS_ENCODE', message: /was released/ })
  const other = await py.call('numbers', [10_000])
  other[Symbol.dispose]()
  assert.equal(release(other), false)
  await until('all is given back', async () => (await py.call('add', [1, 1])) && (await held()) === before)
})

test('what Python keeps of a table stays valid', async () => {
  const x = py.alloc(Float64Array, 50_000).fill(2)
  await py.call('keep', [new arrow.Table({ x: arrow.makeVector(x) })])
  release(x)
  for (let i = 0; i < 20; ++i) py.alloc(Float64Array, 50_000).fill(-1)
  assert.equal(await py.call('kept_total', ['x']), 100_000)
})

test('tables are arguments of callbacks, items of streams, and sit in other values', async () => {
  const table = await py.call('typed', ['i32'])
  assert.deepEqual(column(await py.call('apply', [each => each.slice(2), table])), [2])
  const seen = []
  for await (const each of py.stream('rows', [3])) seen.push(...column(each, 'n'))
  assert.deepEqual(seen, [0n, 1n, 2n])
  const { tables } = await py.call('same', [{ tables: [table, table] }])
  assert.deepEqual(
    tables.map(each => column(each)),
    [column(table), column(table)],
  )
})

test('a table of a chain stays in Python until it is asked for', async () => {
  const pandas = await py.import('pandas')
  const df = await pandas.DataFrame({ n: [1, 2, 3], s: ['a', 'b', 'c'] })
  assert.ok(isRemote(df))
  const part = df.query('n > 1')
  assert.equal(await df.shape[0], 3)
  assert.deepEqual(column(await toTable(part), 'n'), [2n, 3n])
  assert.deepEqual(column(await toTable(df), 's'), ['a', 'b', 'c'])
  assert.ok(isRemote(await df.head(1)))
  assert.ok(isRemote((await keptGroups(df))[0]))
  await assert.rejects(toTable(df.shape), TypeError)
  await assert.rejects(toTable(df.n), TypeError)
  const own = () => 1
  const noTable = { name: 'TypeError', message: /no table/ }
  await assert.rejects(toTable(py.import('operator').getitem([own], 0)), noTable)
  await assert.rejects(toTable(own), noTable)
  assert.deepEqual(column(await py.call(await df.head, [1]), 'n'), [1n])
})

/** The groups of a DataFrame, as a stream of its own gives them. */
async function keptGroups(df) {
  const groups = []
  for await (const [, group] of df.groupby('s')) groups.push(group)
  return groups
}

test('a result can be kept in Python though it could come', async () => {
  const df = await py.call('frame', ['pandas'], { keep: true })
  assert.ok(isRemote(df))
  assert.equal(await df.area.max(), 156.25)
  assert.deepEqual(column(await toTable(df.sort_values(kwargs({ by: 'area' }))), 'area'), [41, 156.25, null])
})

test('a type that Python has no way to receive is an error with its column', async () => {
  const type = new arrow.SparseUnion([0], [new arrow.Field('a', new arrow.Int8())])
  const child = arrow.makeData({ type: new arrow.Int8(), data: Int8Array.of(1) })
  const data = arrow.makeData({ type, typeIds: Int8Array.of(0), children: [child] })
  const table = new arrow.Table({ 'odd one': new arrow.Vector([data]) })
  await assert.rejects(py.call('same', [1, { t: table }]), {
    code: 'ERR_ISTHMUS_ENCODE',
    path: 'args[1].t["odd one"]',
  })
})

test('without apache-arrow a table is an error that says what to install, and all else goes on', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'isthmus-plain-'))
  try {
    const packages = join(folder, 'node_modules')
    await mkdir(packages)
    for (const each of ['dist', 'prebuilds', 'package.json', 'index.mjs']) {
      await cp(join(root, 'adapters/node', each), join(packages, 'isthmus', each), { recursive: true })
    }
    await symlink(join(root, 'node_modules/node-gyp-build'), join(packages, 'node-gyp-build'))
    const program = `
      import { createRequire } from 'node:module'
      process.chdir(${JSON.stringify(folder)})
      const { spawn } = createRequire(${JSON.stringify(join(folder, 'main.mjs'))})('isthmus')
      const py = await spawn(${JSON.stringify(app)})
      try {
        await py.call('numbers', [10_000])
      } catch (error) {
        console.log(error.code, error.message)
      }
      const { self } = await py.stats()
      console.log(await py.call('add', [1, 2]), self.leases_taken - self.leases_released)
      await py.close()
    `
    const python = process.env.ISTHMUS_PYTHON ?? join(root, '.venv/bin/python')
    const { code, out, err } = await run(program, { env: { ISTHMUS_PYTHON: python } })
    assert.equal(code, 0, err)
    assert.match(out, /^ERR_ISTHMUS_NO_ARROW .*npm i apache-arrow, .*\n3 0\n$/)
  } finally {
    await rm(folder, { recursive: true })
  }
})
