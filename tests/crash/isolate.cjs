// A worker thread that keeps calls in flight until its host or itself ends. Says `busy` once they are, and what went wrong.
// CommonJS, because a thread starts faster so.

const { parentPort, workerData } = require('node:worker_threads')
const { connect, IsthmusError } = require('isthmus')

async function keepBusy() {
  const py = await connect(workerData.bus)
  let answered = 0
  const wrong = []

  const lane = async call => {
    try {
      for (;;) {
        await call()
        if (++answered === 20) parentPort.postMessage('busy')
      }
    } catch (error) {
      if (!(error instanceof IsthmusError)) wrong.push(`${error?.stack ?? error}`)
    }
  }

  const lanes = [
    lane(() => py.call('next', [py.alloc(Float64Array, 1000)])),
    ...Array.from({ length: 4 }, (_, i) => lane(() => py.call('add', [i, 1]))),
  ]
  parentPort.on('message', () => py.close())
  await Promise.all(lanes)
  await py.close()
  parentPort.postMessage({ wrong })
  parentPort.close()
}

keepBusy()
