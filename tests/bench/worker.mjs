// One of the four threads of `workers-4`: joins (or starts) its Python side, and keeps its calls in flight.

import { parentPort, workerData } from 'node:worker_threads'
import { counters, lanes } from './cases.mjs'

const { name, context, width, ms } = workerData
const adapter = await import(`./peers/${name}.mjs`)
const peer = await adapter.start(context)
await lanes(peer, width, ms / 4)

parentPort.on('message', async message => {
  if (message === 'go') parentPort.postMessage(await measure())
  if (message === 'stop') {
    await peer.stop()
    parentPort.close()
  }
})
parentPort.postMessage('ready')

async function measure() {
  const before = await counters(peer)
  const result = await lanes(peer, width, ms)
  const after = await counters(peer)
  const counted = {}
  for (const key in after?.self) counted[key] = after.self[key] - before.self[key]
  return { ...result, counted }
}
