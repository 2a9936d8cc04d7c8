// A Unix socket by hand: every turn's calls are one frame, a 32-bit length and a msgpack array of
// [id, name, args]. One Python process serves all connections.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { threadId } from 'node:worker_threads'
import { array, basics, Calls, installed } from './common.mjs'

const app = new URL('./msgpackr_app.py', import.meta.url).pathname

export const install = { npm: { msgpackr: '2.1.3' }, pip: ['msgpack==1.2.4'] }

export const can = [...basics, 'flood']

export async function start({ python, dir, scratch, share }) {
  const { Packr } = installed(dir, 'msgpackr')
  const path = share ?? `${scratch}/${process.pid}-${threadId}.sock`
  const child = share ? null : await serve(python, path)
  const socket = connect(path)
  await once(socket, 'connect')

  const packr = new Packr({ useRecords: false })
  const calls = new Calls(batch => {
    const body = packr.pack(batch)
    const header = Buffer.allocUnsafe(4)
    header.writeUInt32LE(body.length)
    socket.cork()
    socket.write(header)
    // msgpackr uses its buffer again for the next batch.
    socket.write(Buffer.from(body))
    socket.uncork()
  })
  const onFrame = body => {
    for (const answer of packr.unpack(body)) calls.answer(answer)
  }
  socket.on('data', frames(onFrame))
  socket.on('close', () => calls.fail('the Python side closed the socket'))

  return {
    share: path,
    add: (a, b) => calls.call('add', [a, b]),
    array,
    sumPlusOne: async x => {
      const [sum, bytes] = await calls.call('total_plus_one', [Buffer.from(x.buffer)])
      const aligned = bytes.byteOffset % 8 === 0 ? bytes : new Uint8Array(bytes)
      return [sum, new Float64Array(aligned.buffer, aligned.byteOffset, aligned.length / 8)]
    },
    stop: () => {
      socket.destroy()
      child?.stdin.end()
    },
  }
}

async function serve(python, path) {
  const child = spawn(python, [app, path], { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = once(child, 'exit').then(([code]) => {
    throw new Error(`the Python side ended with code ${code} before it listened`)
  })
  ended.catch(() => {})
  await Promise.race([once(child.stdout, 'data'), ended])
  return child
}

function frames(onFrame) {
  const header = Buffer.allocUnsafe(4)
  let body = null
  let filled = 0
  return chunk => {
    for (let at = 0; at < chunk.length; ) {
      const target = body ?? header
      const n = chunk.copy(target, filled, at)
      at += n
      filled += n
      if (filled < target.length) return
      filled = 0
      if (body === null) {
        body = Buffer.allocUnsafe(header.readUInt32LE())
      } else {
        const whole = body
        body = null
        onFrame(whole)
      }
    }
  }
}
