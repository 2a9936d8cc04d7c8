// The source or the sink of a pipeline over ZeroMQ: node zeromq.mjs source|sink FOLDER PLACE [MS]

import { installed } from '../peers/common.mjs'
import { Count, depth, detectors, frameBytes, paint } from './work.mjs'

const [role, dir, place, ms] = process.argv.slice(2)
const zmq = installed(dir, 'zeromq')

const stages = {
  async source() {
    // Each detector has a pipe of its own, of which both ends hold frames.
    const out = new zmq.Push({ sendHighWaterMark: Math.ceil(depth / detectors / 2) })
    await out.bind(`ipc://${place}/frames`)
    for (let number = 0; ; ++number) {
      const frame = Buffer.allocUnsafeSlow(frameBytes)
      paint(frame, number)
      await out.send([`${number}`, frame])
    }
  },
  async sink() {
    const from = new zmq.Pull({ receiveHighWaterMark: depth / 2 })
    from.connect(`ipc://${place}/results`)
    const count = new Count(Number(ms))
    for await (const [about, frame] of from) {
      const found = count.add(JSON.parse(about), frame)
      if (found) return console.log(JSON.stringify(found))
    }
  },
}
await stages[role]()
process.exit()
