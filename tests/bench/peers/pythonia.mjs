// JSPyBridge: a Python child for each isolate, JSON over Node's IPC channel. It has no way for bytes: base64.

import { array, base64, basics, installed } from './common.mjs'

const app = new URL('./pythonia_app.py', import.meta.url).pathname

export const install = { npm: { pythonia: '1.2.6' } }

export const can = basics

export const environment = ({ python }) => ({ PYTHON_BIN: python })

export async function start({ dir }) {
  const { python } = installed(dir, 'pythonia')
  const module = await python(app)
  return {
    add: (a, b) => module.add(a, b),
    array,
    sumPlusOne: async x => {
      const text = await module.total_plus_one(base64.of(x))
      const split = text.indexOf(' ')
      return [Number(text.slice(0, split)), base64.array(text.slice(split + 1))]
    },
    stop: () => python.exit(),
  }
}
