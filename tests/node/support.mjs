// What the tests share: a host to talk to, programs to run beside it, and patience.

import { spawn as spawnProcess } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

export const app = fileURLToPath(new URL('./app.py', import.meta.url))
export const root = fileURLToPath(new URL('../..', import.meta.url))
/** A Python that can have sub-interpreters with a GIL of their own, where there is one beside the main one. */
export const pythonWithInterpreters = ['3.14', '3.13', '3.12']
  .map(version => join(root, `.venvs/${version}/bin/python`))
  .find(existsSync)

/** Runs a program given as text, as a module at the root; its exit code, signal and output. */
export function run(program, { env = {}, flags = [], args = [], onOutput } = {}) {
  const child = spawnProcess(
    process.execPath,
    [...flags, '--input-type=module', '--eval', program, ...args],
    {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  )
  let out = ''
  let err = ''
  child.stdout.setEncoding('utf8').on('data', text => {
    out += text
    onOutput?.(child, out)
  })
  child.stderr.setEncoding('utf8').on('data', text => {
    err += text
  })
  return new Promise(resolve => child.on('close', (code, signal) => resolve({ code, signal, out, err })))
}

/** Waits until something is so; fails after `patience` milliseconds. */
export async function until(what, isSo, patience = 5000) {
  const end = performance.now() + patience
  while (!(await isSo())) {
    if (performance.now() > end) throw new Error(`still not so after ${patience} ms: ${what}`)
    await delay(5)
  }
}

/** Has the garbage collector run, and what it leaves to be done later. */
export async function collectGarbage() {
  for (let i = 0; i < 3; ++i) {
    globalThis.gc()
    await delay(5)
  }
}

/** Whether a process runs; one that has ended and waits for its parent to notice does not. */
export function isAlive(pid) {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

export { delay }
