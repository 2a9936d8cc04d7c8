// ZeroMQ: PUSH and PULL sockets over ipc:// between the processes of a pipeline.

import { mkdtempSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { begin, outputOf } from '../pipeline/children.mjs'
import { detectors } from '../pipeline/work.mjs'

const [inNode, inPython] = ['zeromq.mjs', 'zeromq.py'].map(file =>
  fileURLToPath(new URL(`../pipeline/${file}`, import.meta.url)),
)

export const install = { npm: { zeromq: '6.8.0' }, pip: ['pyzmq==27.3.0'] }

export const can = ['pipeline']

export function start({ python, dir, scratch }) {
  return {
    async pipeline(ms) {
      const place = mkdtempSync(join(scratch, 'pipeline-'))
      const others = [
        begin(process.execPath, [inNode, 'source', dir, place]),
        ...Array.from({ length: detectors }, () => begin(python, [inPython, 'detect', place])),
        begin(python, [inPython, 'aggregate', place]),
      ]
      try {
        return JSON.parse(await outputOf(process.execPath, [inNode, 'sink', dir, place, ms]))
      } finally {
        for (const each of others) each.kill('SIGKILL')
      }
    },
    stop: () => {},
  }
}
