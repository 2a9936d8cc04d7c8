// A worker thread with a chain of calls, each with the answer of the one before. CommonJS, because a thread starts faster so.

const { parentPort, workerData } = require('node:worker_threads')
const { connect, release } = require('isthmus')

const { bus, i, endless } = workerData

const steps = [
  (py, sum) => py.call('add', [sum, 1]),
  (py, sum) => py.callSync('add', [sum, 1]),
  async (py, sum) => {
    const x = py.alloc(Float64Array, 1000)
    x[0] = sum
    const y = await py.call('next', [x]) // some are released, some are left to the end of the isolate
    if (sum % 2 === 0) release(x)
    return y[0]
  },
  async (py, sum) =>
    (
      await py.callMany('add', [
        [sum, 1],
        [0, 0],
      ])
    )[0],
]

async function hundred() {
  const py = await connect(bus)
  let sum = 0
  for (let n = 0; n < 100; n++) sum = await steps[(n + i) % steps.length](py, sum)
  parentPort.postMessage(sum)
  if (i % 2 === 0) await py.close()
}

async function withoutEnd() {
  const py = await connect(bus)
  parentPort.postMessage('started')
  for (let sum = 0; ; ) {
    if (i % 3 === 0) for (let n = 0; n < 50; n++) py.call('echo', [new Float64Array(1000)])
    if (i % 5 === 0) await py.call('sleep', [0.001])
    sum = await steps[sum % steps.length](py, sum)
  }
}

if (endless) withoutEnd()
else hundred()
