// Python alone: the queues of multiprocessing between the processes of a pipeline.

import { fileURLToPath } from 'node:url'
import { outputOf } from '../pipeline/children.mjs'

const program = fileURLToPath(new URL('../pipeline/processes.py', import.meta.url))

export const install = {}

export const can = ['pipeline']

export function start({ python }) {
  return {
    pipeline: async ms => JSON.parse(await outputOf(python, [program, ms])),
    stop: () => {},
  }
}
