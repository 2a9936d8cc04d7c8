// Writes each result to a file of its own: once more changes nothing.

import { renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { connect } from 'isthmus'

const bus = await connect()
for await (const message of bus.queue('results')) {
  const file = join(process.env.OUT, `${message.value.name}.json`)
  writeFileSync(`${file}.new`, JSON.stringify(message.value))
  renameSync(`${file}.new`, file) // a reader sees all of it or nothing
  message.ack()
}
