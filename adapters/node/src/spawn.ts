// A Python host as a child: started, watched and stopped.

import { type ChildProcess, spawn as spawnChild } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import type { Socket } from 'node:net'
import { basename, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Companion } from './answers.js'
import type { Bus } from './bus.js'
import { joinBus } from './connect.js'
import { ConnectError, PythonError } from './errors.js'
import { constants } from './native.js'
import { checkChoice, checkWhole, optionsOf } from './options.js'
import { findPython, type Interpreter } from './python.js'
import type { AnyExports } from './types.js'

/** How a Python host is started. */
export interface SpawnOptions {
  /** The interpreter. Else `$ISTHMUS_PYTHON`, `$VIRTUAL_ENV`, `$CONDA_PREFIX`, `./.venv` or `python3`. */
  readonly python?: string
  /** The bus's name, so that other isolates can `connect` to it. A private one if not given; it is in `Bus.name`. */
  readonly bus?: string
  /** What arrays on the bus may take: bytes, or text like `'512MiB'`. */
  readonly memory?: number | string
  /** How much of that one peer may own, likewise. Three quarters if not given. */
  readonly quota?: number | string
  /** The modules that `Bus.import` may import, each with those below it. All if not given: the host is a child of this process. */
  readonly allow?: readonly string[]
  /** How many workers serve the app: calls go to the one with the least to do, and those that die are started again. */
  readonly workers?: number
  /** What a worker is: a process if not given, a sub-interpreter with a GIL of its own (from Python 3.12 on), or a thread (in free-threaded builds). */
  readonly workerKind?: 'process' | 'interpreter' | 'thread'
  /** Added to the environment of this process. */
  readonly env?: Readonly<Record<string, string | undefined>>
  /** The host's working directory. */
  readonly cwd?: string
}

const checkOptions = optionsOf<SpawnOptions>('spawn', {
  python: true,
  bus: true,
  memory: true,
  quota: true,
  allow: true,
  workers: true,
  workerKind: true,
  env: true,
  cwd: true,
})

const workerKinds: readonly SpawnOptions['workerKind'][] = ['process', 'interpreter', 'thread']
const pythonAdapter = resolve(__dirname, '../../python') // in a clone, where this package lies too
const lifelineFd = 3
const outputKept = 64 << 10
const stopPatience = 2000
const exitPatience = 10
const outputPatience = 200

/**
 * Starts a Python host that serves what `app` (a file, seen from the host's directory, or a module's name) exports, and joins
 * its bus. The host ends when the
 * bus is closed, and when this process ends, however it does.
 *
 * @throws (as a rejection) TypeError or RangeError for an option that is none; ConnectError, which names the interpreter, why that
 * one, and what the host printed.
 */
export async function spawn<Exports extends object = AnyExports>(
  app: string | URL,
  options: SpawnOptions = {},
): Promise<Bus<Exports>> {
  checkOptions(options)
  const { workers, workerKind } = options
  if (workers !== undefined) checkWhole('workers', workers, 1, constants.peers.most - 1)
  if (workerKind !== undefined) checkChoice('workerKind', workerKind, workerKinds)
  const path = app instanceof URL ? fileURLToPath(app) : app
  const bus = options.bus ?? `spawn-${process.pid}-${randomBytes(6).toString('hex')}`
  const host = new Host(path, bus, options)
  try {
    await host.ready()
    const connection = await joinBus<Exports>(bus, {}, host)
    host.letGo()
    return connection
  } catch (error) {
    await host.stop()
    throw error
  }
}

class Host implements Companion {
  ended: string | undefined
  #asked: Promise<void> | undefined
  readonly #app: string
  readonly #python: Interpreter
  readonly #child: ChildProcess
  readonly #exit: Promise<void>
  readonly #closed: Promise<void>
  readonly #lifeline: Socket
  // The last of what it printed, until it is ready.
  #output: Buffer[] | undefined = []
  #kept = 0

  constructor(app: string, bus: string, options: SpawnOptions) {
    const env = { ...process.env, ...options.env, PYTHONUNBUFFERED: '1' }
    this.#app = app
    this.#python = findPython(options.python, env, options.cwd ?? process.cwd())
    const args = ['-m', 'isthmus', 'serve', app, '--bus', bus, '--lifeline', `${lifelineFd}`]
    if (options.memory !== undefined) args.push('--memory', `${options.memory}`)
    if (options.quota !== undefined) args.push('--quota', `${options.quota}`)
    if (options.workers !== undefined) args.push('--workers', `${options.workers}`)
    if (options.workerKind !== undefined) args.push('--worker-kind', options.workerKind)
    const allow = options.allow?.join(',') ?? '*'
    if (allow !== '') args.push('--allow', allow)
    this.#child = spawnChild(this.#python.path, args, {
      cwd: options.cwd,
      env,
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    })
    this.#lifeline = this.#child.stdio[lifelineFd] as Socket
    this.#lifeline.on('error', () => {}) // the host's end is told by its exit
    this.#exit = new Promise(resolve => {
      this.#child.once('exit', (code, signal) => {
        this.ended = signal === null ? `ended with exit code ${code}` : `was killed by ${signal}`
        resolve()
      })
      this.#child.once('error', error => {
        this.ended ??= `could not be started (${error.message})`
        resolve()
      })
    })
    this.#closed = new Promise(resolve => this.#child.once('close', () => resolve()))
    this.#passOn(this.#child.stdout as Socket, process.stdout)
    this.#passOn(this.#child.stderr as Socket, process.stderr)
  }

  /** Passes the child's output on as it comes. */
  #passOn(from: Socket, to: NodeJS.WriteStream): void {
    from.on('data', (chunk: Buffer) => {
      if (this.#output !== undefined) {
        this.#output.push(chunk)
        this.#kept += chunk.length
        while (this.#kept - (this.#output[0] as Buffer).length >= outputKept) {
          this.#kept -= (this.#output.shift() as Buffer).length
        }
      }
      if (to.write(chunk)) return
      from.pause()
      to.once('drain', () => from.resume())
    })
  }

  /** Until the host says that it serves. */
  async ready(): Promise<void> {
    let text = ''
    const said = new Promise<void>(resolve => {
      this.#lifeline.setEncoding('utf8')
      this.#lifeline.on('data', (chunk: string) => {
        text += chunk
        if (text.includes('\n')) resolve()
      })
    })
    await Promise.race([said, this.#exit])
    if (this.ended !== undefined) await this.#lastOutput()
    if (!text.includes('\n')) throw this.#failure(undefined)
    const message = JSON.parse(text.slice(0, text.indexOf('\n'))) as {
      ready?: boolean
      error?: { type: string; message: string; traceback: string }
    }
    if (message.ready) return
    await within(outputPatience, this.#exit)
    await this.#lastOutput()
    throw this.#failure(message.error)
  }

  #lastOutput(): Promise<void> {
    return within(outputPatience, this.#closed)
  }

  #failure(error: { type: string; message: string; traceback: string } | undefined): ConnectError {
    const { path, reason } = this.#python
    const output = Buffer.concat(this.#output ?? [])
      .toString()
      .slice(-outputKept)
    const who = `${path} (from ${reason})`
    if (error === undefined && /No module named '?isthmus/.test(output)) {
      const from = existsSync(pythonAdapter) ? pythonAdapter : '/path/to/isthmus/adapters/python'
      return new ConnectError(
        `${who} has no package 'isthmus': install it with: ${path} -m pip install ${from}`,
      )
    }
    const why = error
      ? `${error.type}: ${error.message}${placeIn(error.traceback)}`
      : `the host ${this.ended ?? 'said nothing that makes sense'}`
    const printed = output.trim()
    const cause = error && new PythonError({ ...error, module: '', args: [error.message] })
    return new ConnectError(
      `${who} could not serve ${basename(this.#app)}: ${why}${printed ? `\n\n${printed}` : ''}`,
      cause && { cause },
    )
  }

  /** The host is up: from now on it does not keep this process alive, and its output is no longer kept. */
  letGo(): void {
    this.#output = undefined
    this.#lifeline.resume()
    this.#reference('unref')
  }

  #reference(how: 'ref' | 'unref'): void {
    this.#child[how]()
    for (const stream of [this.#child.stdout, this.#child.stderr, this.#lifeline])
      (stream as Socket | null)?.[how]()
  }

  async howItEnded(): Promise<string | undefined> {
    this.#asked ??= this.#waitForExit()
    await this.#asked
    return this.ended
  }

  async #waitForExit(): Promise<void> {
    this.#child.ref()
    await within(exitPatience, this.#exit)
    this.#child.unref()
  }

  /** Hangs up, which the host takes for its end; kills it if that takes too long. */
  async stop(): Promise<void> {
    if (this.ended === undefined) {
      this.#reference('ref')
      this.#lifeline.destroy()
      const patience = setTimeout(() => this.#child.kill('SIGKILL'), stopPatience)
      await this.#exit
      clearTimeout(patience)
    }
    await this.#lastOutput()
    this.#lifeline.destroy()
    this.#reference('unref')
  }
}

/** Where an exception was raised, for a message; the cause has the whole traceback. */
function placeIn(traceback: string): string {
  const last = [...traceback.matchAll(/^ +File "(.+)", line (\d+)/gm)].at(-1)
  return last ? ` (${last[1]}, line ${last[2]})` : ''
}

/** Waits for a promise, but not for longer. */
async function within(milliseconds: number, promise: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const over = new Promise<void>(resolve => {
    timer = setTimeout(resolve, milliseconds)
  })
  try {
    await Promise.race([promise, over])
  } finally {
    clearTimeout(timer)
  }
}
