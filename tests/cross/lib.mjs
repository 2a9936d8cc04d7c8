// Processes, places and figures that the tests of several processes share.

import { execFileSync, spawn as startProcess } from 'node:child_process'
import {
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  rmSync,
  statSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from 'isthmus'
import { status } from './memory.mjs'

export * from './memory.mjs'
export { sleep }

export const root = new URL('../..', import.meta.url).pathname
export const python = process.env.ISTHMUS_PYTHON ?? join(root, '.venv/bin/python')
process.env.ISTHMUS_PYTHON = python

const list = variable => (process.env[variable] ?? '').split(':').filter(Boolean)
/** The Nodes under test, and the Pythons beside the main one. */
export const nodes = list('ISTHMUS_TEST_NODES').length > 0 ? list('ISTHMUS_TEST_NODES') : [process.execPath]
/** What a runtime under test calls itself, like Node 20.20.2 or Bun 1.4.5. */
export const runtimeName = program =>
  evaluate(
    program,
    "(v => v.bun ? 'Bun ' + v.bun : v.deno ? 'Deno ' + v.deno : 'Node ' + v.node)(process.versions)",
  )
/** What an expression comes to there, as text. */
export const evaluate = (node, expression) =>
  execFileSync(node, ['-p', expression], { encoding: 'utf8' }).trim()
export const otherPythons = list('ISTHMUS_TEST_PYTHONS')

/** How often a property is tried; less often where that is all that differs. */
export const examples = n => ({ numRuns: Math.ceil(n * Number(process.env.ISTHMUS_TEST_EXAMPLES ?? 1)) })

/** Buses of this process and its children live in a directory of their own, which goes with the process. */
export function privateDirectory() {
  const directory = mkdtempSync(join(tmpdir(), 'isthmus-test-'))
  process.env.XDG_RUNTIME_DIR = directory
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  const buses = join(directory, 'isthmus')
  mkdirSync(buses, { mode: 0o700 })
  return buses
}

/** Resolves to the first truthy answer; throws when there is none in time. */
export async function until(what, ms, ask) {
  const deadline = performance.now() + ms
  for (;;) {
    const answer = await ask()
    if (answer) return answer
    if (performance.now() > deadline) throw new Error(`not within ${ms} ms: ${what}`)
    await sleep(5)
  }
}

// What a failed test has left running would keep its file from ending
const started = []
const killAll = () => {
  for (const child of started) child.kill('SIGKILL')
}
if ('NODE_TEST_CONTEXT' in process.env) after(killAll)
process.on('exit', killAll)

/** A child whose output is kept: lines as they come, and how it ended. */
export function start(program, args, options = {}) {
  const child = startProcess(program, args, { stdio: ['pipe', 'pipe', 'pipe'], ...options })
  started.push(child)
  const process = { pid: child.pid, child, out: '', err: '', lines: [] }
  const waiting = []
  const offer = () => {
    while (waiting.length > 0 && process.lines.length > 0) waiting.shift().resolve(process.lines.shift())
  }
  let rest = ''
  child.stdout?.setEncoding('utf8').on('data', text => {
    process.out += text
    const lines = (rest + text).split('\n')
    rest = lines.pop()
    process.lines.push(...lines)
    offer()
  })
  child.stderr?.setEncoding('utf8').on('data', text => {
    process.err += text
  })
  process.ended = new Promise(resolve => {
    child.on('close', (code, signal) => {
      for (const each of waiting.splice(0))
        each.reject(new Error(`ended with ${code ?? signal}: ${process.err}`))
      resolve({ code, signal })
    })
  })
  process.line = () =>
    new Promise((resolve, reject) => {
      waiting.push({ resolve, reject })
      offer()
    })
  process.say = text => child.stdin.write(`${text}\n`)
  return process
}

/** What a process said, and how it ended, which must come in time. */
export async function finish(run, ms) {
  const timer = setTimeout(() => run.child.kill('SIGKILL'), ms)
  const end = await run.ended
  clearTimeout(timer)
  return { ...end, out: run.out, err: run.err }
}

/** A Node program to its end. */
export const runNode = (program, args = [], { node = process.execPath, ms = 30_000, ...options } = {}) =>
  finish(start(node, ['--expose-gc', program, ...args], options), ms)

/** A host to be joined by name. */
export async function serve(app, bus, { env, program = python, options = [] } = {}) {
  const host = start(program, ['-m', 'isthmus', 'serve', app, '--bus', bus, ...options], {
    env: { ...process.env, ...env },
  })
  let ended = false
  host.ended.then(() => {
    ended = true
  })
  await until(`the bus ${bus} is served`, 20_000, async () => {
    if (ended) throw new Error(`the host ended: ${host.err}`)
    try {
      await (await connect(bus)).close()
      return true
    } catch {
      return false
    }
  })
  host.stop = async () => {
    host.child.kill('SIGTERM')
    return host.ended
  }
  return host
}

const here = name => new URL(name, import.meta.url).pathname
let buses = 0

/** Another process that offers what peer.py and peer.mjs offer, and this isolate's place on its bus. */
export async function meet(language, ...options) {
  const name = `met-${process.pid}-${++buses}`
  const isPython = language === 'python'
  const host = await serve(here(isPython ? 'peer.py' : 'nobody.py'), name, { options })
  let player = host
  if (!isPython) {
    player = await third(name, '')
  }
  const peer = await connect(name)
  const part = async () => {
    await peer.close()
    player.child.stdin.end()
    if (player !== host) await player.ended
    await host.stop()
  }
  return { name, peer, pid: player.pid, host, player, part }
}

/** Meets before the tests of a suite, and parts after them; `then` is called in between. */
export function meetBefore(language, then) {
  const other = {}
  before(async () => {
    Object.assign(other, await meet(language))
    then()
  })
  after(() => other.part?.())
  return other
}

/** A third process on a bus, in JavaScript: what it offers has this prefix. */
export async function third(name, prefix) {
  const player = start(process.execPath, ['--expose-gc', here('peer.mjs'), name, prefix])
  await player.line()
  return player
}

export const languages = ['python', 'javascript']

export const isAlive = pid => {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1][0] !== 'Z'
  } catch {
    return false
  }
}

export const threads = pid => status(pid, 'Threads')
export const descriptors = pid => readdirSync(`/proc/${pid}/fd`).length

/** Of all threads that live: their processor time in milliseconds, and how often they have slept. */
export function activity(pid) {
  const tasks = readdirSync(`/proc/${pid}/task`).map(task => `/proc/${pid}/task/${task}`)
  const sum = figure => tasks.reduce((total, task) => total + Number(figure(task)), 0)
  return {
    busyMs: sum(task => readFileSync(join(task, 'schedstat'), 'utf8').split(' ')[0]) / 1e6,
    sleeps: sum(
      task => readFileSync(join(task, 'status'), 'utf8').match(/^voluntary_ctxt_switches:\s+(\d+)/m)[1],
    ),
  }
}

const schedule = openSync('/proc/thread-self/schedstat')
const digits = Buffer.alloc(64)

/** How long this thread was ready to run and had no processor, in milliseconds. Makes no garbage. */
function waited() {
  readSync(schedule, digits, 0, 64, 0)
  let i = digits.indexOf(32) + 1
  let ns = 0
  for (; digits[i] !== 32; i++) ns = ns * 10 + digits[i] - 48
  return ns / 1e6
}

/** Milliseconds, in a time that stands still while the kernel has no processor for this thread. */
export function ownTime() {
  for (;;) {
    const before = waited()
    const now = performance.now()
    if (waited() === before) return now - before
  }
}

/** Pages that the segments which a process has open take up, in bytes. */
export function segmentBytes(pid) {
  const found = new Map()
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    const path = `/proc/${pid}/fd/${fd}`
    try {
      if (!readlinkSync(path).startsWith('/memfd:isthmus')) continue
      const { ino, blocks } = statSync(path)
      found.set(ino, blocks * 512)
    } catch {}
  }
  return [...found.values()].reduce((sum, each) => sum + each, 0)
}
