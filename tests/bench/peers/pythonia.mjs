// JSPyBridge: a Python child for each isolate, JSON over Node's IPC channel. It has no way for bytes: base64.

import { createRequire } from 'node:module'

const app = new URL('./pythonia_app.py', import.meta.url).pathname

export const install = { npm: { pythonia: '1.2.6' } }

export const cannot = [
  'sync',
  'handoff',
  'double',
  'copied',
  'async',
  'stream',
  'workers-py',
  'flood',
  'inference',
  'pipeline',
]

export const environment = ({ python }) => ({ PYTHON_BIN: python })

export async function start({ dir }) {
  const { python } = createRequire(`${dir}/package.json`)('pythonia')
  const module = await python(app)
  return {
    add: (a, b) => module.add(a, b),
    array: length => new Float64Array(length),
    sumPlusOne: async x => {
      const text = await module.total_plus_one(Buffer.from(x.buffer).toString('base64'))
      const split = text.indexOf(' ')
      return [
        Number(text.slice(0, split)),
        new Float64Array(Buffer.from(text.slice(split + 1), 'base64').buffer),
      ]
    },
    stop: () => python.exit(),
  }
}
