// A worker thread that keeps calls in flight on several buses until their hosts or itself end. Says `busy` once they all are,
// and in the end what went wrong. CommonJS, because a thread starts faster so.

const { parentPort, workerData } = require('node:worker_threads')
const { connect, IsthmusError } = require('isthmus')

let toBeBusy = workerData.buses.length
const wrong = []

async function keepBusy(bus) {
  const py = await connect(bus)
  let answered = 0

  const lane = async call => {
    try {
      for (;;) {
        await call()
        if (++answered === 20 && --toBeBusy === 0) parentPort.postMessage('busy')
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
}

Promise.all(workerData.buses.map(keepBusy)).then(() => {
  parentPort.postMessage({ wrong })
  parentPort.close()
})
