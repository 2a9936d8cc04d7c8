// The package as its README shows it: one host, and every worker thread joins its bus.

import { existsSync } from 'node:fs'
import { threadId } from 'node:worker_threads'

const here = name => new URL(name, import.meta.url).pathname
const app = here('./isthmus_app.py')
const pythonWithInterpreters = ['3.13', '3.12']
  .map(version => here(`../../../.venvs/${version}/bin/python`))
  .find(existsSync)

export const cannot = pythonWithInterpreters ? [] : ['workers-py-interpreter-2']

export async function start({ python, share }) {
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
    release,
    stats: () => py.stats(),
    stop: () => py.close(),
  }
}
