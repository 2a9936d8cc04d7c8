// The package as its README shows it: one host, and every worker thread joins its bus.

import { threadId } from 'node:worker_threads'

const app = new URL('./isthmus_app.py', import.meta.url).pathname

export const cannot = []

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
    pool: workers => spawn(app, { python, workers }),
    host: other => spawn(other, { python }),
    release,
    stats: () => py.stats(),
    stop: () => py.close(),
  }
}
