// An isolate among those whose calls become one: what batches.test.mjs runs, also in threads and in another process.
import { parentPort, workerData } from 'node:worker_threads'
import { connect } from 'isthmus'

/** Calls once the call before has been answered, so that no batch has two calls of this isolate; what it was told. */
export async function gather(bus, name, rounds) {
  const py = await connect(bus)
  const told = []
  for (let i = 0; i < rounds; ++i) told.push(await py.call('gather', [name]))
  await py.close()
  return told
}

parentPort?.postMessage(await gather(...workerData))
