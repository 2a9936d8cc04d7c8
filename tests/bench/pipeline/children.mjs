// The processes of a pipeline.

import { spawn } from 'node:child_process'
import { once } from 'node:events'

/** Starts a program; its end is told by `outputOf`. */
export function begin(program, args, options) {
  return spawn(program, args.map(String), { stdio: ['ignore', 'pipe', 'inherit'], ...options })
}

/** Runs a program to its end; what it has printed. */
export async function outputOf(program, args, options) {
  const child = begin(program, args, options)
  let text = ''
  child.stdout.setEncoding('utf8').on('data', chunk => {
    text += chunk
  })
  const [code, signal] = await once(child, 'close')
  if (code !== 0)
    throw new Error(`${program} ${args.join(' ')} ended with ${signal ?? `code ${code}`}: ${text}`)
  return text
}
