// A scikit-learn model behind an HTTP server of Node: node examples/inference/inference.mjs [--port 8000]

import { Agent, request } from 'node:http'
import { json } from 'node:stream/consumers'
import { parseArgs } from 'node:util'
import { spawn } from 'isthmus'
import { serve } from './server.mjs'

const { values } = parseArgs({ options: { port: { type: 'string' } } })
const py = await spawn(`${import.meta.dirname}/app.py`)

if (values.port) {
  await serve(py, Number(values.port))
  console.log(`POST http://127.0.0.1:${values.port}/predict takes the 64 pixels of an image; Ctrl-C ends`)
} else {
  await examine()
}

/** Sits the exam: 64 clients send what the model has not seen. */
async function examine() {
  const server = await serve(py, 0)
  const agent = new Agent({ keepAlive: true })
  const post = body =>
    new Promise((resolve, reject) => {
      const { port } = server.address()
      const sent = request({ port, agent, method: 'POST', path: '/predict' }, response => {
        json(response).then(answer => resolve({ status: response.statusCode, ...answer }), reject)
      })
      sent.on('error', reject).end(JSON.stringify(body))
    })

  const [images, labels] = await py.call('exam')
  const [count, pixels] = images.shape
  const image = i => images.data.subarray(i * pixels, (i + 1) * pixels)
  const answers = []
  let next = 0
  const client = async () => {
    while (next < count) {
      const i = next++
      answers[i] = (await post([...image(i)])).digit
    }
  }
  await Promise.all(Array.from({ length: 64 }, client))

  const right = answers.filter((digit, i) => digit === Number(labels[i])).length
  console.log(`${count} images of digits, ${Math.floor((right / count) * 100)} of 100 read right`)
  const some = answers.slice(0, 50)
  const alone = await Promise.all(some.map((_, i) => py.call('predict_one', [image(i)])))
  console.log(
    `the first ${alone.length} one by one:`,
    alone.every((digit, i) => digit === some[i]) ? 'the same' : alone,
  )

  const first = image(0)
  for (let row = 0; row < pixels; row += 8) {
    console.log([...first.subarray(row, row + 8)].map(ink => '·░▒▓█'[Math.round(ink / 4)]).join(''))
  }
  console.log('is a', answers[0])
  console.log(await post([1, 2, 3]))

  agent.destroy()
  server.close()
  await py.close()
}
