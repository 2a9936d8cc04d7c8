// A worker thread with a chain of calls, each with the answer of the one before.

import { parentPort, workerData } from 'node:worker_threads'
import { connect, release } from 'isthmus'

const { bus, i, endless } = workerData
const py = await connect(bus)

const steps = [
  sum => py.call('add', [sum, 1]),
  sum => py.callSync('add', [sum, 1]),
  async sum => {
    const x = py.alloc(Float64Array, 1000)
    x[0] = sum
    const y = await py.call('next', [x]) // some are released, some are left to the end of the isolate
    if (sum % 2 === 0) release(x)
    return y[0]
  },
  async sum =>
    (
      await py.callMany('add', [
        [sum, 1],
        [0, 0],
      ])
    )[0],
]

if (endless) {
  parentPort.postMessage('started')
  for (let sum = 0; ; ) {
    if (i % 3 === 0) for (let n = 0; n < 50; n++) py.call('echo', [new Float64Array(1000)])
    if (i % 5 === 0) await py.call('sleep', [0.001])
    sum = await steps[sum % steps.length](sum)
  }
}

let sum = 0
for (let n = 0; n < 100; n++) sum = await steps[(n + i) % steps.length](sum)
parentPort.postMessage(sum)
if (i % 2 === 0) await py.close()
