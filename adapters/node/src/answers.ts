// What comes back: answers, items and ends of streams, for who waits for them.

import type { Calls, Settle } from './calls.js'
import type { Decoder } from './decode.js'
import { errorOf, HostLostError, type IsthmusError, NotExportedError } from './errors.js'
import { errorFrom } from './failures.js'
import { constants, type NativeConnection } from './native.js'
import type { Target } from './port.js'
import type { Blocked, Server } from './serve.js'

const { kinds, fields, sizes, statuses, words } = constants
const OK = statuses.ok
const REPLY = kinds.reply
const ERROR = kinds.error
const descriptorWords = sizes.descriptorWords

/** What a host that was spawned adds to its bus. */
export interface Companion {
  /** How the host ended, as part of a sentence; waits a moment for it to be known. */
  howItEnded(): Promise<string | undefined>
  /** How the host ended, as far as it is known now. */
  readonly ended: string | undefined
  stop(): Promise<void>
}

/** A call that its isolate is blocked in. */
export class Waiting implements Blocked {
  done = false
  failed = false
  value: unknown

  constructor(
    readonly slot: number,
    readonly activityLow: number,
    readonly activityHigh: number,
    readonly peer: number,
    readonly peerGeneration: number,
  ) {}
}

export class Answers {
  /** The calls that this isolate is blocked in, the innermost one last. */
  readonly #waiting: readonly Waiting[]
  readonly #calls: Calls
  readonly #decoder: Decoder
  readonly #server: Server
  readonly #companion: Companion | undefined
  readonly #words: Int32Array
  readonly #descriptors: Int32Array
  readonly #inbox: ArrayBuffer
  readonly #abandon: (slot: number) => void
  readonly #native: NativeConnection
  readonly #bus: string
  // What was drained and is not settled yet.
  #next = 0
  #count = 0

  constructor(
    calls: Calls,
    decoder: Decoder,
    server: Server,
    companion: Companion | undefined,
    control: Int32Array,
    descriptors: Int32Array,
    inbox: ArrayBuffer,
    abandon: (slot: number) => void,
    native: NativeConnection,
    bus: string,
    waiting: readonly Waiting[],
  ) {
    this.#calls = calls
    this.#decoder = decoder
    this.#server = server
    this.#companion = companion
    this.#words = control
    this.#descriptors = descriptors
    this.#inbox = inbox
    this.#abandon = abandon
    this.#native = native
    this.#bus = bus
    this.#waiting = waiting
  }

  /** Settles all that was drained. */
  settleAll(large: ArrayBuffer | undefined): void {
    this.#decoder.look(large ?? this.#inbox)
    this.#next = 0
    this.#count = this.#words[words.frames] as number
    this.settleDrained()
  }

  /** A call that is made while an answer is being settled finds the rest of the answers settled first. */
  settleDrained(): void {
    while (this.#next < this.#count) this.#settle(descriptorWords * this.#next++)
  }

  #settle(at: number): void {
    const descriptors = this.#descriptors
    const kind = descriptors[at + fields.kind]
    if (kind !== REPLY && kind !== ERROR) {
      if (kind === kinds.item) this.#items(at)
      else this.#server.receive(at)
      return
    }
    const slot = descriptors[at + fields.slot] as number
    const { resolve: resolves } = this.#calls
    const resolve = resolves[slot]
    if (resolve === undefined) {
      this.#settleOther(at, slot, kind === ERROR)
      return
    }
    const reject = this.#calls.reject[slot]
    let failed = kind === ERROR
    let value: unknown
    try {
      value = this.#value(at, slot, failed)
    } catch (error) {
      failed = true
      value = error
    }
    if (this.#calls.watch[slot] === undefined) {
      resolves[slot] = undefined
      this.#calls.reject[slot] = undefined
    } else {
      this.#calls.forget(slot)
    }
    this.#calls.giveBack(slot)
    this.#lessInFlight()
    if (!failed) resolve(value)
    else if (value instanceof HostLostError && this.#companion)
      this.#rejectLost(reject as Settle, slot, value)
    else reject?.(value)
  }

  /** The end of a stream, the answer to a call that this isolate is blocked in, or one that nobody waits for. */
  #settleOther(at: number, slot: number, isError: boolean): void {
    const waiting = this.#waiting.find(each => each.slot === slot && !each.done)
    const stream = waiting ? undefined : this.#calls.streams.get(slot)
    if (stream === undefined && waiting === undefined) {
      this.#discard(at)
      this.#calls.giveBack(slot)
      return
    }
    let failed = isError
    let value: unknown
    try {
      value = this.#value(at, slot, failed)
    } catch (error) {
      failed = true
      value = error
    }
    this.#calls.forget(slot)
    this.#calls.giveBack(slot)
    if (waiting !== undefined) {
      waiting.done = true
      waiting.failed = failed
      waiting.value = value
      return
    }
    this.#lessInFlight()
    if (!failed || this.#descriptors[at + fields.status] === statuses.cancelled) stream?.end()
    else stream?.fail(value)
  }

  /** What an answer holds: a value or, if it has failed, an error. */
  #value(at: number, slot: number, failed: boolean): unknown {
    const descriptors = this.#descriptors
    const count = descriptors[at + fields.cellCount] as number
    let value: unknown
    if (count !== 0) {
      const cells = descriptors[at + fields.cells] as number
      const heap = descriptors[at + fields.heap] as number
      const payloads = descriptors[at + fields.payloads] as number
      try {
        value = this.#decoder.frame(cells, heap, payloads, descriptors[at + fields.payloadCount] as number)
      } catch (error) {
        this.#decoder.giveUp(cells, count)
        throw error
      }
    }
    return failed ? this.#failureOf(at, slot, value) : value
  }

  #items(at: number): void {
    const descriptors = this.#descriptors
    const field = (name: number) => descriptors[at + name] as number
    const slot = field(fields.slot)
    const stream = this.#calls.streams.get(slot)
    if (stream === undefined) {
      this.#discard(at)
      return
    }
    const cells = field(fields.cells)
    const count = field(fields.cellCount)
    let values: unknown[]
    try {
      const [heap, payloads] = [field(fields.heap), field(fields.payloads)]
      const payloadCount = field(fields.payloadCount)
      values = this.#decoder.values(cells, count, heap, payloads, payloadCount, stream.areDeliveries)
    } catch (error) {
      this.#decoder.giveUp(cells, count)
      this.#calls.forget(slot)
      this.#lessInFlight()
      this.#abandon(slot)
      stream.fail(error)
      return
    }
    stream.items(values)
  }

  #discard(at: number): void {
    const descriptors = this.#descriptors
    this.#decoder.discard(
      descriptors[at + fields.cells] as number,
      descriptors[at + fields.cellCount] as number,
      descriptors[at + fields.payloads] as number,
      descriptors[at + fields.payloadCount] as number,
    )
  }

  #failureOf(at: number, slot: number, value: unknown): unknown {
    const name = this.#calls.name[slot] as string
    const status = this.#descriptors[at + fields.status] as number
    if (status === OK) return errorFrom(value)
    if (status === statuses.not_exported) {
      const close = (value as { close?: string[] } | undefined)?.close
      return new NotExportedError(name, Array.isArray(close) ? close : [])
    }
    if (status === statuses.closed) return this.#lost(name, 'stopped before it began, or had done it')
    if (status !== statuses.lost) return errorOf(status, `'${name}'`)
    const fate = this.#native.fate(this.#descriptors[at + fields.number] as number)
    return this.#lost(name, this.#companion?.ended ?? fate)
  }

  #lost(name: string, fate: string | undefined): HostLostError {
    return new HostLostError(`'${name}' was not answered:`, `the host ${fate ?? 'is gone'}`)
  }

  /** Why a call or post was not sent. */
  notSent(status: number, target: Target): IsthmusError {
    const name = typeof target === 'string' ? `'${target}'` : 'what was called of a remote object'
    if (status !== statuses.lost) return errorOf(status, name)
    const subject = `${name} was not sent:`
    if (typeof target !== 'string') return new HostLostError(subject, "the object's owner is gone")
    const ended = this.#companion?.ended
    if (ended) return new HostLostError(subject, `the host ${ended}: spawn it again`)
    this.#native.standing()
    if (this.#words[words.status] === OK) return new HostLostError(subject, 'nobody serves it at the moment')
    return new HostLostError(
      subject,
      `nobody serves the bus '${this.#bus}' any more: connect again once it is served`,
    )
  }

  /** The bus knows of a host's death before the system says how it died. */
  #rejectLost(reject: Settle, slot: number, error: HostLostError): void {
    const name = this.#calls.name[slot] as string
    void this.#companion?.howItEnded().then(ended => reject(ended ? this.#lost(name, ended) : error))
  }

  #lessInFlight(): void {
    this.#words[words.inFlight] = (this.#words[words.inFlight] as number) - 1
  }
}
