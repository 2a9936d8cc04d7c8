// Quiet isolates beside one that floods. Whoever floods keeps both processors busy, so what it does to the others is told apart: flooding
// the host that they call, flooding a host of its own, nothing. The three take turns, as the machine has moods.

import { once } from 'node:events'
import { Worker } from 'node:worker_threads'

const quiet = 30
const rounds = 4
const states = ['alone', 'beside', 'flooded']

export async function flood(peer, { ms, name, context }) {
  const start = role => {
    const data = { role, name, context, share: peer.share }
    return new Worker(new URL('./flood_isolate.mjs', import.meta.url), { workerData: data })
  }
  const all = [start('flooder'), ...Array.from({ length: quiet }, () => start('quiet'))]
  const exits = Promise.all(all.map(isolate => once(isolate, 'exit')))
  const ask = (isolates, message) => {
    const answers = Promise.all(isolates.map(async isolate => (await once(isolate, 'message'))[0]))
    if (message) for (const isolate of isolates) isolate.postMessage(message)
    return answers
  }
  const [flooder, ...others] = all
  try {
    await ask(all)
    const times = { alone: [], beside: [], flooded: [] }
    let flooded = 0
    for (let round = 0; round <= rounds; round++) {
      for (const state of states) {
        await ask([flooder], { flood: state })
        const found = (await ask(others, { measure: ms / rounds })).flat()
        const [calls] = await ask([flooder], { flood: 'alone' })
        if (round === 0) continue // to warm up
        times[state].push(...found)
        if (state === 'flooded') flooded += calls
      }
    }
    const at = (state, q) => times[state].sort((a, b) => a - b)[Math.floor(q * times[state].length)] * 1000
    return {
      p50_alone: [at('alone', 0.5), 'us'],
      p50_beside: [at('beside', 0.5), 'us'],
      p50_flooded: [at('flooded', 0.5), 'us'],
      p99_alone: [at('alone', 0.99), 'us'],
      p99_beside: [at('beside', 0.99), 'us'],
      p99_flooded: [at('flooded', 0.99), 'us'],
      flooded_of_alone: [at('flooded', 0.99) / at('alone', 0.99), '1'],
      flooded_of_beside: [at('flooded', 0.99) / at('beside', 0.99), '1'],
      flood_calls_per_s: [(flooded / ms) * 1000, '1/s'],
    }
  } finally {
    for (const isolate of all) isolate.postMessage('stop')
    await exits
  }
}
