// An isolate of the case `flood-30`: one that calls now and then, or the one that floods.

import { setTimeout } from 'node:timers/promises'
import { parentPort, workerData } from 'node:worker_threads'

const { role, name, context, share } = workerData
const adapter = await import(`./peers/${name}.mjs`)
const shared = await adapter.start({ ...context, share })
const own = role === 'flooder' ? await adapter.start(context) : null
let stops = () => {}

/** Keeps 1000 calls in flight until `stops` is called. */
function flood(peer) {
  let done = false
  let calls = 0
  const lane = async () => {
    while (!done) {
      await peer.add(1, 2)
      calls++
    }
  }
  const ended = Promise.all(Array.from({ length: 1000 }, lane))
  return async () => {
    done = true
    await ended
    return calls
  }
}

async function quietly(ms) {
  const times = []
  for (const end = performance.now() + ms; performance.now() < end; ) {
    await setTimeout(5 + 10 * Math.random())
    const before = performance.now()
    await shared.add(1, 2)
    times.push(performance.now() - before)
  }
  return times
}

parentPort.on('message', async message => {
  if (message === 'stop') {
    await Promise.all([shared.stop(), own?.stop()])
    parentPort.close()
  } else if (message.measure) {
    parentPort.postMessage(await quietly(message.measure))
  } else {
    const calls = await stops()
    stops = message.flood === 'alone' ? () => {} : flood(message.flood === 'flooded' ? shared : own)
    parentPort.postMessage(calls)
  }
})
parentPort.postMessage('ready')
