// A child's stdin and stdout by hand: every turn's calls are one write of JSON lines. Arrays travel as
// base64. Each isolate has a child of its own.

import { spawn } from 'node:child_process'

const app = new URL('./jsonlines_app.py', import.meta.url).pathname

export const install = {}

export const cannot = [
  'sync',
  'handoff',
  'double',
  'copied',
  'async',
  'stream',
  'workers-py',
  'flood',
  'inference',
  'pipeline',
]

export async function start({ python }) {
  const child = spawn(python, [app], { stdio: ['pipe', 'pipe', 'inherit'] })
  const pending = new Map()
  let batch = ''
  let nextId = 0

  const flush = () => {
    child.stdin.write(batch)
    batch = ''
  }

  const call = (name, args) =>
    new Promise((resolve, reject) => {
      const id = nextId++
      pending.set(id, { resolve, reject })
      if (batch === '') queueMicrotask(flush)
      batch += `${JSON.stringify([id, name, args])}\n`
    })

  let parts = []
  child.stdout.setEncoding('latin1')
  child.stdout.on('data', chunk => {
    const end = chunk.lastIndexOf('\n')
    if (end < 0) return parts.push(chunk)
    parts.push(chunk.slice(0, end))
    const lines = parts.join('').split('\n')
    parts = [chunk.slice(end + 1)]
    for (const line of lines) {
      const [id, error, result] = JSON.parse(line)
      const { resolve, reject } = pending.get(id)
      pending.delete(id)
      if (error === null) resolve(result)
      else reject(new Error(error))
    }
  })
  child.stdin.on('error', () => {})
  child.on('close', () => {
    for (const { reject } of pending.values()) reject(new Error('the Python side ended'))
  })

  return {
    add: (a, b) => call('add', [a, b]),
    array: length => new Float64Array(length),
    sumPlusOne: async x => {
      const [sum, text] = await call('total_plus_one', [Buffer.from(x.buffer).toString('base64')])
      return [sum, new Float64Array(Buffer.from(text, 'base64').buffer)]
    },
    stop: () => child.stdin.end(),
  }
}
