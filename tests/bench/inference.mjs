// The model of examples/inference behind its HTTP server: called for each request, and for batches of them.

import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { serve } from '../../examples/inference/server.mjs'

const app = new URL('../../examples/inference/app.py', import.meta.url).pathname
const rounds = 2

export async function inference(peer, { ms }) {
  const py = await peer.host(app)
  const servers = { one: await serve(py, 0, 'predict_one'), batched: await serve(py, 0) }
  const [images, labels] = await py.call('exam')
  const clients = new Worker(new URL('./http_clients.mjs', import.meta.url), {
    workerData: { images: images.toNested(), labels: Array.from(labels, Number) },
  })
  const exit = once(clients, 'exit')
  const load = async (way, width) => {
    clients.postMessage({ port: servers[way].address().port, width, ms: ms / rounds })
    const [found] = await once(clients, 'message')
    if (found.error) throw new Error(found.error)
    return found
  }
  try {
    const metrics = {}
    const found = { one: [], batched: [], lone_one: [], lone_batched: [] }
    for (let round = 0; round <= rounds; round++) {
      for (const way of ['one', 'batched']) {
        const [many, lone] = [await load(way, 64), await load(way, 1)]
        if (round === 0) continue // to warm up
        found[way].push(many)
        found[`lone_${way}`].push(lone)
      }
    }
    const rate = way =>
      found[way].reduce((sum, { times, seconds }) => sum + times.length / seconds, 0) / rounds
    const at = (way, q) => {
      const times = found[way].flatMap(each => each.times).sort((a, b) => a - b)
      return times[Math.floor(q * times.length)] * 1000
    }
    for (const way of ['one', 'batched']) metrics[`requests_per_s_${way}`] = [rate(way), '1/s']
    metrics.speedup = [rate('batched') / rate('one'), '1']
    for (const way of ['one', 'batched']) metrics[`p99_${way}`] = [at(way, 0.99), 'us']
    metrics.p99_batched_of_one = [at('batched', 0.99) / at('one', 0.99), '1']
    for (const way of ['one', 'batched']) metrics[`p50_lone_${way}`] = [at(`lone_${way}`, 0.5), 'us']
    return metrics
  } finally {
    clients.postMessage('stop')
    await exit
    for (const server of Object.values(servers)) server.close()
    await py.close()
  }
}
