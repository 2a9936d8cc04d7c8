// Joining a bus that somebody serves.

import { constants as bufferLimits } from 'node:buffer'
import { basename } from 'node:path'
import { isMainThread, threadId } from 'node:worker_threads'
import type { Companion } from './answers.js'
import { Bus, makeBuffers } from './bus.js'
import { ConnectError } from './errors.js'
import { constants, native } from './native.js'
import { checkChoice, optionsOf } from './options.js'
import type { AnyExports } from './types.js'

const { statuses } = constants

// Milliseconds, where a bus or its host is waited for. Each look occupies a thread of Node's small pool, so it is short.
const pause = 20
const shortLook = 20
const longLook = 40

/** How a bus is joined. */
export interface ConnectOptions {
  /** Milliseconds to wait for a host that is there but not ready yet. 10,000 if not given. */
  readonly timeout?: number
  /** Milliseconds to wait for a bus that is not there yet. 0 if not given. */
  readonly wait?: number
  /** Whether all calls of this caller go to one worker, as long as it is there. */
  readonly sticky?: boolean
}

const checkOptions = optionsOf<ConnectOptions>('connect', { timeout: true, wait: true, sticky: true })

/**
 * Joins a bus that `python -m isthmus serve app.py --bus NAME` is serving, or that another isolate has spawned. Without a name it
 * is that of `$ISTHMUS_BUS`, which the stages of a pipeline (`python -m isthmus up`) are given.
 *
 * @throws (as a rejection) TypeError or RangeError for an option that is none; ConnectError, which says what to run.
 */
export async function connect<Exports extends object = AnyExports>(
  bus: string | undefined = process.env.ISTHMUS_BUS,
  options: ConnectOptions = {},
): Promise<Bus<Exports>> {
  checkOptions(options)
  if (options.sticky !== undefined) checkChoice('sticky', options.sticky, [true, false])
  if (bus === undefined)
    throw new ConnectError(
      "connect() was given no name, and ISTHMUS_BUS is not set: name the bus, like connect('vision'), or have " +
        '`python -m isthmus up` run this as a stage of a pipeline',
    )
  return joinBus<Exports>(bus, options, undefined)
}

function label(): string {
  const script = process.argv[1]
  const program = script === undefined ? 'node' : basename(script)
  return isMainThread ? program : `${program} (worker ${threadId})`
}

/** @internal */
export async function joinBus<Exports extends object>(
  bus: string,
  { timeout = 10_000, wait = 0, sticky = false }: ConnectOptions,
  companion: Companion | undefined,
): Promise<Bus<Exports>> {
  // Without, memory is mapped over a buffer's own; JavaScriptCore would use that again, for others.
  if ('bun' in process.versions && !native.wrapsMemory)
    throw new ConnectError(`${engine()} can't wrap the memory of a bus: use the newest Bun`)
  const buffers = makeBuffers()
  let connection: Awaited<ReturnType<typeof native.join>>
  const target = { ...buffers, onWake: () => buffers.onWake() }
  for (const [name, value] of Object.entries({ timeout, wait })) {
    if (!(value >= 0)) throw new RangeError(`${name} is a number of milliseconds, and not ${value}`)
  }
  const appears = performance.now() + wait
  const ready = appears + timeout
  for (let look = shortLook; ; look = longLook) {
    const left = Math.max(ready - performance.now(), 0)
    try {
      connection = await native.join(String(bus), label(), Math.min(look, left), target)
      break
    } catch (error) {
      const refusal = error as Error & { status?: number }
      const until = { [statuses.no_bus]: appears, [statuses.timed_out]: ready }[refusal.status ?? statuses.ok]
      if (until === undefined || performance.now() >= until) throw explained(bus, refusal)
    }
    await new Promise(resolve => setTimeout(resolve, pause))
  }
  const bytes = connection.stats()?.[1].bytes ?? 0
  if (bytes > bufferLimits.MAX_LENGTH) {
    connection.close()
    throw new ConnectError(tooLarge(bus, bytes))
  }
  return new Bus(bus, connection, buffers, companion, sticky)
}

/** All arrays are views of one buffer, which has to hold the whole memory. */
function tooLarge(bus: string, bytes: number): string {
  const gib = (size: number) => `${Math.floor((size / 2 ** 30) * 10) / 10} GiB`
  const most = gib(bufferLimits.MAX_LENGTH)
  return (
    `the bus '${bus}' has ${gib(bytes)} of memory, and a buffer of this engine (${engine()}) holds ` +
    `at most ${most}: serve it with --memory ${most.replace(' ', '')}, or use Node 22 or later`
  )
}

function engine(): string {
  const { bun, deno, node } = process.versions
  if (bun !== undefined) return `Bun ${bun}`
  return deno === undefined ? `Node ${node}` : `Deno ${deno}`
}

function explained(bus: string, error: Error & { status?: number }): ConnectError {
  const { statuses } = constants
  const served = `python -m isthmus serve app.py --bus ${bus}`
  switch (error.status) {
    case statuses.no_bus:
      return new ConnectError(`${error.message}; serve it with: ${served}`, { cause: error })
    case statuses.timed_out:
      return new ConnectError(`${error.message}; if it hangs, end it and serve anew: ${served}`, {
        cause: error,
      })
    default:
      return new ConnectError(`the bus '${bus}' could not be joined: ${error.message}`, { cause: error })
  }
}
