// The clients of `inference`, on a thread of their own: each waits for its answer before it asks again.

import { Agent, request } from 'node:http'
import { json } from 'node:stream/consumers'
import { parentPort, workerData } from 'node:worker_threads'

const { images, labels } = workerData
const bodies = images.map(image => JSON.stringify(image))
const agent = new Agent({ keepAlive: true })

const post = (port, body) =>
  new Promise((resolve, reject) => {
    const sent = request({ port, agent, method: 'POST', path: '/predict' }, response => {
      json(response).then(resolve, reject)
    })
    sent.on('error', reject).end(body)
  })

async function load({ port, width, ms }) {
  const times = []
  let wrong = 0
  let next = 0
  const begin = performance.now()
  const client = async () => {
    for (let now = performance.now(); now - begin < ms; ) {
      const i = next++ % bodies.length
      const { digit, error } = await post(port, bodies[i])
      if (error) throw new Error(error)
      if (digit !== labels[i]) wrong++
      const after = performance.now()
      times.push(after - now)
      now = after
    }
  }
  await Promise.all(Array.from({ length: width }, client))
  if (wrong > times.length / 10) throw new Error(`${wrong} of ${times.length} digits were read wrong`)
  return { times, seconds: (performance.now() - begin) / 1000 }
}

parentPort.on('message', async message => {
  if (message === 'stop') {
    agent.destroy()
    parentPort.close()
    return
  }
  parentPort.postMessage(await load(message).catch(error => ({ error: error.message })))
})
