// The source or the sink of a pipeline over queues of a bus: node isthmus.mjs source|sink [MS]

import { connect, release } from 'isthmus'
import { Count, depth, frameBytes, lanes, paint } from './work.mjs'

const [role, ms] = process.argv.slice(2)
const bus = await connect()
const copied = async () => (await bus.stats()).self.bytes_copied

const stages = {
  async source() {
    const frames = bus.queue('frames', { depth })
    let next = 0
    const lane = async () => {
      for (;;) {
        const number = next++
        const frame = bus.allocUnsafe(Uint8Array, frameBytes)
        paint(frame, number)
        // Some frames gather what was copied so far by those they come to.
        await frames.put(number % 256 === 0 ? { number, frame, copied: await copied() } : { number, frame })
        release(frame)
      }
    }
    await Promise.all(Array.from({ length: lanes }, lane))
  },
  async sink() {
    const count = new Count(Number(ms))
    let perFrame = 0
    for await (const message of bus.queue('results', { depth, prefetch: depth })) {
      const { frame, ...about } = message.value
      const found = count.add(about, frame)
      message.ack()
      release(frame)
      if (about.copied !== undefined) perFrame = (about.copied + (await copied())) / (about.number + 1)
      if (found) return console.log(JSON.stringify({ ...found, copied: perFrame }))
    }
  },
}
await stages[role]()
await bus.close()
