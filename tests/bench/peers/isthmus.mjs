// The package as its README shows it: one host, and every worker thread joins its bus.

import { mkdtempSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { threadId } from 'node:worker_threads'
import { pythonWithInterpreters } from '../../node/support.mjs'
import { cases } from '../cases.mjs'
import { outputOf } from '../pipeline/children.mjs'
import { detectors } from '../pipeline/work.mjs'

const here = name => new URL(name, import.meta.url).pathname
const app = here('./isthmus_app.py')

export const can = Object.keys(cases).filter(key => pythonWithInterpreters || !key.includes('interpreter'))

const [inNode, inPython] = ['isthmus.mjs', 'isthmus_stage.py'].map(file =>
  fileURLToPath(new URL(`../pipeline/${file}`, import.meta.url)),
)

/** Runs it with `isthmus up`; what the sink says in the log that the stages share. */
async function pipeline(python, scratch, ms) {
  const folder = mkdtempSync(join(scratch, 'pipeline-'))
  const stage = (name, command, keys = '') =>
    `[[stage]]\nname = "${name}"\ncommand = ${JSON.stringify(command)}\n${keys}\n`
  const text = [
    `[bus]\nname = "bench-${basename(folder)}"\nmemory = "1GiB"\n`,
    stage('source', [process.execPath, inNode, 'source']),
    stage('detect', [python, inPython, 'detect'], `workers = ${detectors}`),
    stage('aggregate', [python, inPython, 'aggregate']),
    stage('sink', [process.execPath, inNode, 'sink', `${ms}`], 'restart = "never"'),
  ]
  writeFileSync(join(folder, 'pipeline.toml'), text.join('\n'))
  const said = await outputOf(python, ['-m', 'isthmus', 'up', join(folder, 'pipeline.toml')])
  return JSON.parse(said.match(/^sink\.0 \| (\{.*)$/m)[1])
}

export async function start({ python, share, scratch }) {
  const { connect, release, spawn } = await import('isthmus')
  const bus = share ?? `bench-${process.pid}-${threadId}`
  const py = share ? await connect(bus) : await spawn(app, { bus, python })
  return {
    share: bus,
    add: (a, b) => py.call('add', [a, b]),
    addSync: (a, b) => py.callSync('add', [a, b]),
    array: length => py.alloc(Float64Array, length),
    sumPlusOne: x => py.call('total_plus_one', [x]),
    same: x => py.call('same', [x]),
    double: x => py.call('double', [x]),
    doubleAlone: (x, seconds) => py.call('double_alone', [x, seconds]),
    length: x => py.call('length', [x]),
    nap: seconds => py.call('nap', [seconds]),
    count: n => py.stream('count', [n]),
    pool: (workers, workerKind) =>
      spawn(here('./busy_app.py'), {
        python: workerKind === 'interpreter' ? pythonWithInterpreters : python,
        workers,
        workerKind,
      }),
    host: other => spawn(other, { python }),
    pipeline: ms => pipeline(python, scratch, ms),
    release,
    stats: () => py.stats(),
    stop: () => py.close(),
  }
}
