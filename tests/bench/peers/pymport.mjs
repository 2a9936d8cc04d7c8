// Python inside Node's process, in the libpython that pkg-config finds. Arrays as its wiki shows them: a
// shared memoryview there, the buffer of the result copied back. All worker threads share one interpreter.

import { delimiter, dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { array, basics, installed } from './common.mjs'

const here = dirname(fileURLToPath(import.meta.url))

export const install = {
  npm: { pymport: '1.5.1' },
  // The addon is compiled as C++14, and node-addon-api asks for C++17 from 8.1 on.
  overrides: { 'node-addon-api': '8.0.0' },
  build: ['pymport'],
  embeds: true,
}

export const can = [...basics, 'sync']

export const environment = ({ sitePackages }) => ({ PYTHONPATH: [here, sitePackages].join(delimiter) })

export async function start({ dir }) {
  const { pymport, PyObject } = installed(dir, 'pymport')
  const app = pymport('pymport_app')
  const add = app.get('add')
  const totalPlusOne = app.get('total_plus_one')
  return {
    add: async (a, b) => (await add.callAsync(a, b)).toJS(),
    addSync: (a, b) => add.call(a, b).toJS(),
    array,
    sumPlusOne: x => {
      const result = totalPlusOne.call(PyObject.memoryview(Buffer.from(x.buffer)))
      return [result.item(0).toJS(), new Float64Array(result.item(1).toJS().buffer)]
    },
    stop: () => {},
  }
}
