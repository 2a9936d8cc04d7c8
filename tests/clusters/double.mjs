// Calls `double` with an array in bus memory: node double.mjs BUS

import assert from 'node:assert/strict'
import { connect } from 'isthmus'

const py = await connect(process.argv[2])
const copied = async () => {
  const { self, host } = await py.stats()
  return [self.bytes_copied, host.bytes_copied]
}
assert.notEqual(await py.call('pid'), await py.call('here'))
const before = await copied()
const doubled = await py.call('double', [py.alloc(Float64Array, 100_000).fill(21)])
assert.deepEqual(doubled, new Float64Array(100_000).fill(42))
assert.ok(doubled.buffer instanceof SharedArrayBuffer)
assert.deepEqual(await copied(), before)
await py.close()
console.log('doubled')
