// How much memory is in use, of this process and of others.

import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

/** A figure that the kernel keeps of a process. */
export const status = (pid, name) =>
  Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(`${name}:\\s+(\\d+)`)[1])
/** Private memory: without the pages of the bus, which both sides see. */
export const privateBytes = pid => status(pid, 'RssAnon') * 1024
/** That of this process, without what V8's heap has free: it grows by rules of its own. */
export const usedBytes = () => {
  const { heapTotal, heapUsed } = process.memoryUsage()
  return privateBytes(process.pid) - heapTotal + heapUsed
}

/** Frees what can be freed, also what only finalizers free. */
export async function collect() {
  for (let i = 0; i < 4; i++) {
    global.gc()
    await sleep(5)
  }
}
