// A child's stdin and stdout by hand: every turn's calls are one write of JSON lines. Arrays travel as
// base64. Each isolate has a child of its own.

import { spawn } from 'node:child_process'
import { array, base64, basics, Calls } from './common.mjs'

const app = new URL('./jsonlines_app.py', import.meta.url).pathname

export const install = {}

export const can = basics

export async function start({ python }) {
  const child = spawn(python, [app], { stdio: ['pipe', 'pipe', 'inherit'] })
  const calls = new Calls(batch => child.stdin.write(batch.map(call => `${JSON.stringify(call)}\n`).join('')))

  let parts = []
  child.stdout.setEncoding('latin1')
  child.stdout.on('data', chunk => {
    const end = chunk.lastIndexOf('\n')
    if (end < 0) return parts.push(chunk)
    parts.push(chunk.slice(0, end))
    const lines = parts.join('').split('\n')
    parts = [chunk.slice(end + 1)]
    for (const line of lines) calls.answer(JSON.parse(line))
  })
  child.stdin.on('error', () => {})
  child.on('close', () => calls.fail('the Python side ended'))

  return {
    add: (a, b) => calls.call('add', [a, b]),
    array,
    sumPlusOne: async x => {
      const [sum, text] = await calls.call('total_plus_one', [base64.of(x)])
      return [sum, base64.array(text)]
    },
    stop: () => child.stdin.end(),
  }
}
