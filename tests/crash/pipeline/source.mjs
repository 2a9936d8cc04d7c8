// Turns each job, a number, into a frame.

import { connect, release } from 'isthmus'
import { deliveries, fill, frameBytes } from './frames.mjs'

const bus = await connect()
const frames = bus.queue('frames', { depth: 16, deliveries })
for await (const job of bus.queue('jobs', { deliveries, prefetch: 4 })) {
  const number = job.value
  const frame = bus.alloc(Uint8Array, frameBytes)
  fill(frame, number)
  const copied = (await bus.stats()).self.bytes_copied
  await frames.put({ number, frame, copied })
  release(frame)
  job.ack()
}
