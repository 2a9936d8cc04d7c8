import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import { setFlagsFromString } from 'node:v8'
import * as esm from 'isthmus'
import { app } from './support.mjs'

const require = createRequire(import.meta.url)
const cjs = require('isthmus')

test('ESM and CommonJS see the same names and the same classes', () => {
  const names = [
    'spawn',
    'connect',
    'release',
    'move',
    'kwargs',
    'Bus',
    'NDArray',
    'IsthmusError',
    'PythonError',
  ]
  for (const name of names) {
    assert.equal(typeof cjs[name], 'function', name)
    assert.equal(Reflect.get(esm, name), cjs[name], name)
  }
  assert.deepEqual(
    Object.keys(cjs).sort(),
    Object.keys(esm)
      .filter(name => !['default', '__esModule', 'module.exports'].includes(name))
      .sort(),
  )
})

test('every error is an IsthmusError with a code and the name of its class', () => {
  const errors = [
    new esm.PythonError({ type: 'ValueError', module: 'builtins', message: 'no', traceback: '', args: [] }),
    new esm.HostLostError('gone'),
    new esm.TimeoutError('late'),
    new esm.BusFullError('full'),
    new esm.EncodeError('args[0]', 'is wrong'),
    new esm.NotExportedError('f', []),
    new esm.ConnectError('nobody'),
  ]
  const codes = new Set()
  for (const error of errors) {
    assert.ok(error instanceof esm.IsthmusError)
    assert.ok(error instanceof Error)
    assert.equal(error.name, error.constructor.name)
    assert.match(error.code, /^ERR_ISTHMUS_/)
    assert.ok(error.stack.startsWith(`${error.name}: ${error.message}`), error.stack)
    codes.add(error.code)
  }
  assert.equal(codes.size, errors.length)
})

test('an NDArray checks its shape and its dtype', () => {
  const { NDArray } = esm
  assert.throws(() => new NDArray(new Float64Array(5), [2, 3]), /has 6 numbers, the data 5/)
  assert.throws(() => new NDArray(new Float64Array(6), [2, -3]), TypeError)
  assert.throws(() => new NDArray([1, 2], [2]), TypeError)
  assert.throws(() => new NDArray(new Float64Array(2), [2], 'uint8'), /uint8/)
  assert.throws(() => new NDArray(new Float64Array(2), [2], 'decimal'), /decimal/)
  assert.equal(new NDArray(new Float64Array(2), [1], 'complex128').dtype, 'complex128')
  assert.throws(() => new NDArray(new Float64Array(2), [2]).at(2), RangeError)
})

test('what every call looks up is in no slow dictionary', async () => {
  const { native } = require('../../adapters/node/dist/native.js')
  const { join } = native
  let connection
  native.join = async (...args) => {
    connection = await join(...args)
    return connection
  }
  try {
    await (await esm.spawn(app)).close()
  } finally {
    native.join = join
  }
  setFlagsFromString('--allow-natives-syntax')
  const isFast = new Function('object', 'return %HasFastProperties(object)')
  setFlagsFromString('--no-allow-natives-syntax')
  for (const [name, object] of Object.entries({ ...native.constants, connection })) {
    assert.ok(isFast(object), name)
  }
})
