// POST /predict with the 64 pixels of an image as JSON is answered with {"digit": 7}. The server knows nothing of batches: each request
// is a call, and Python gathers those that come together.

import { once } from 'node:events'
import { createServer } from 'node:http'
import { json } from 'node:stream/consumers'

const pixels = 64

class BadRequest extends Error {}

async function imageOf(request) {
  const numbers = await json(request).catch(() => null)
  const isImage = Array.isArray(numbers) && numbers.length === pixels && numbers.every(Number.isFinite)
  if (!isImage) throw new BadRequest(`an image is a list of ${pixels} numbers, from 0 (white) to 16 (black)`)
  return new Float64Array(numbers)
}

/** Serves until it is closed. `predict` names the export that is called. */
export async function serve(py, port, predict = 'predict') {
  const server = createServer(async (request, response) => {
    const answer = (status, body) => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`)
    }
    if (request.method !== 'POST' || request.url !== '/predict') {
      answer(404, { error: 'there is POST /predict' })
      return
    }
    try {
      answer(200, { digit: await py.call(predict, [await imageOf(request)], { timeout: 5000 }) })
    } catch (error) {
      answer(error instanceof BadRequest ? 400 : 500, { error: error.message })
    }
  })
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  return server
}
