// Starts runners, talks with them, measures their CPU time from outside, and leaves none behind.

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'

const running = new Set()

export class Runner {
  #child
  #alive = true
  #printed = ''
  #waiting = null

  constructor(name, context, environment) {
    this.#child = fork(new URL('./runner.mjs', import.meta.url), [name, JSON.stringify(context)], {
      detached: true, // a process group, to be ended as a whole
      env: { ...process.env, ...environment },
      execArgv: ['--expose-gc'],
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    })
    running.add(this)
    this.#child.on('error', error => this.#settle(error))
    const keep = text => {
      this.#printed = (this.#printed + text).slice(-4000)
    }
    this.#child.stdout.on('data', keep)
    this.#child.stderr.on('data', keep)
    this.#child.on('message', ({ error, result }) => this.#settle(error && new Error(error), result))
    this.#child.on('exit', (code, signal) => {
      const lines = this.#printed.trim().split('\n')
      const said = lines.findLast(line => /^\w*Error\b/.test(line)) ?? lines.at(-1)
      this.#settle(new Error(`its process ended with ${signal ?? `code ${code}`}${said && `: ${said}`}`))
      this.#alive = false
      running.delete(this)
    })
  }

  get alive() {
    return this.#alive
  }

  ask(message, seconds) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#settle(new Error(`no answer in ${seconds} s`))
        this.kill()
      }, seconds * 1000)
      this.#waiting = { resolve, reject, timer }
      this.#child.send(message)
    })
  }

  #settle(error, result) {
    if (!this.#waiting) return
    const { resolve, reject, timer } = this.#waiting
    this.#waiting = null
    clearTimeout(timer)
    if (error) reject(error)
    else resolve(result)
  }

  async stop() {
    if (!this.#alive) return
    const ended = once(this.#child, 'exit')
    const timer = setTimeout(() => this.kill(), 4000)
    await this.ask({ action: 'stop' }, 3).catch(() => {})
    await ended
    clearTimeout(timer)
  }

  kill() {
    if (!this.#alive) return
    this.#alive = false
    try {
      process.kill(-this.#child.pid, 'SIGKILL')
    } catch (error) {
      if (error.code !== 'ESRCH') throw error
    }
  }

  /** Nanoseconds of CPU time so far: of the Node process, and of its children. */
  cpuTime() {
    const parents = new Map(processes().map(pid => [pid, parentOf(pid)]))
    const own = this.#child.pid
    const descends = pid => pid === own || (parents.has(pid) && descends(parents.get(pid)))
    const children = [...parents.keys()].filter(pid => pid !== own && descends(pid))
    return { node: cpuTimeOf(own), python: children.map(cpuTimeOf).reduce((sum, time) => sum + time, 0) }
  }
}

export function killAll() {
  for (const runner of running) runner.kill()
}

const processes = () =>
  readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .map(Number)

function parentOf(pid) {
  const stat = readOr(`/proc/${pid}/stat`, '0 (gone) X 0')
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
}

function cpuTimeOf(pid) {
  let threads
  try {
    threads = readdirSync(`/proc/${pid}/task`)
  } catch {
    return 0
  }
  const times = threads.map(thread =>
    Number(readOr(`/proc/${pid}/task/${thread}/schedstat`, '0').split(' ')[0]),
  )
  return times.reduce((sum, time) => sum + time, 0)
}

function readOr(path, otherwise) {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return otherwise
  }
}
