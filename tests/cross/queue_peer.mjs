// A process that does with queues what it is told, line by line, and says what came of it.

import { createInterface } from 'node:readline'
import { connect, TimeoutError } from 'isthmus'

const say = what => process.stdout.write(`${JSON.stringify(what)}\n`)
const [, , name, prefetch] = process.argv
const bus = await connect(name)
const q = bus.queue('q', { prefetch: Number(prefetch) })
const held = []
let subscription
say('there')
for await (const line of createInterface({ input: process.stdin })) {
  const [verb, ...rest] = JSON.parse(line)
  if (verb === 'put') await q.put(...rest)
  else if (verb === 'get') {
    const message = await q.get()
    held.push(message)
    say([message.value, message.deliveries])
    continue
  } else if (verb === 'next') {
    const { value } = await subscription.next()
    say([value, subscription.dropped])
    continue
  } else if (verb === 'publish') {
    const [value, seconds = 0] = rest
    try {
      await bus.topic('t').publish(value, { timeout: 1000 * seconds })
    } catch (error) {
      if (!(error instanceof TimeoutError)) throw error
      await q.stats() // what was withdrawn is withdrawn by then
      say('no room')
      continue
    }
  } else if (verb === 'ack') held.shift().ack()
  else if (verb === 'reject') held.shift().reject()
  else if (verb === 'subscribe') {
    const [onFull, depth] = rest
    subscription = bus.topic('t').subscribe({ onFull, depth })
    await subscription.ready
  } else if (verb === 'relay') {
    const results = bus.queue('results')
    say('done')
    for await (const message of q) {
      await results.put(message.value)
      message.ack()
    }
  }
  say('done')
}
