// This isolate as a peer: what it calls, what comes back, and whom it serves.

import { Answers, type Companion, Waiting } from './answers.js'
import { Memory } from './arrays.js'
import { Calls, type Settle } from './calls.js'
import { serving } from './context.js'
import { Decoder } from './decode.js'
import { Encoder } from './encode.js'
import { closedError, IsthmusError, TimeoutError } from './errors.js'
import { end } from './leases.js'
import { KeywordArguments } from './marks.js'
import { constants, type NativeConnection } from './native.js'
import { Objects } from './objects.js'
import {
  type Port,
  type PortOptions,
  Reference,
  type StreamEvents,
  type StreamHandle,
  type Target,
} from './port.js'
import { Server } from './serve.js'
import { listen } from './signals.js'
import { initialCredit } from './streams.js'
import { after, milliseconds } from './timers.js'

const { kinds, sizes, statuses, words, doubles, frames, targets, peers, sticky } = constants
const OK = statuses.ok
const mostQueued = 1 << 14
/** Frames, also of those that wait in no queue. */
const mostInLook = 1 << 14
/** Calls that wait for one another, each blocking its isolate. */
const deepest = 128

/** @internal */
export interface Buffers {
  control: ArrayBuffer
  descriptors: ArrayBuffer
  inbox: ArrayBuffer
  onWake: () => void
}

// One executor for all promises: it hands both functions out instead of closing over them.
let resolveIt: Settle
let rejectIt: Settle
function hand(resolve: Settle, reject: Settle): void {
  resolveIt = resolve
  rejectIt = reject
}

export class Peer implements Port {
  readonly native: NativeConnection
  readonly memory: Memory
  readonly server: Server
  readonly #encoder: Encoder
  readonly #objects: Objects
  readonly #words: Int32Array
  readonly #doubles: Float64Array
  readonly #calls = new Calls()
  readonly #answers: Answers
  /** The calls that this isolate is blocked in, the innermost one last. */
  readonly #waiting: Waiting[] = []
  /** Whether calls keep to one worker if nothing else is said. */
  readonly #sticky: boolean
  /** Called before each message. */
  readonly #used: () => void

  // The names of exports that were called, as the addon numbers them.
  readonly #names = new Map<string, number>()
  #lastName: string | undefined
  #lastNumber = -1
  // Milliseconds that the call staged last may take.
  #timeout = 0

  #posted = false
  #flushes = false
  #isClosed = false

  constructor(
    bus: string,
    native: NativeConnection,
    buffers: Buffers,
    companion: Companion | undefined,
    sticky: boolean,
    used: () => void,
  ) {
    this.native = native
    this.#sticky = sticky
    this.#used = used
    this.#words = new Int32Array(buffers.control, 0, constants.doubles.timeout * 2)
    this.#doubles = new Float64Array(buffers.control)
    const descriptors = new Int32Array(buffers.descriptors)
    this.memory = new Memory(native, buffers.control)
    this.#objects = new Objects(native, buffers.control, this)
    this.#encoder = new Encoder(native, this.#words, this.memory, this.#objects, this)
    const decoder = new Decoder(this.memory, buffers.inbox, this.#objects)
    this.server = new Server(this, native, this.#words, descriptors, this.#encoder, decoder, this.#waiting)
    this.#answers = new Answers(
      this.#calls,
      decoder,
      this.server,
      companion,
      this.#words,
      descriptors,
      buffers.inbox,
      slot => this.#abandon(slot),
      native,
      bus,
      this.#waiting,
    )
    buffers.onWake = () => this.#wake()
  }

  /** Calls and posts that were sent, and streams that run. */
  get inFlight(): number {
    return this.#words[words.inFlight] as number
  }

  set loop(loop: number) {
    this.#words[words.loop] = loop
    this.native.settled()
  }

  // --- calling -----------------------------------------------------------------------------------------------

  call(target: Target, args: readonly unknown[], options?: PortOptions): Promise<unknown> {
    try {
      options?.signal?.throwIfAborted()
      const slot = this.#submit(target, args, options, 0, 0)
      const promise = new Promise<unknown>(hand)
      this.#calls.resolve[slot] = resolveIt
      this.#calls.reject[slot] = rejectIt
      if (this.#timeout > 0 || options?.signal !== undefined) this.#watch(slot, options?.signal)
      return promise
    } catch (error) {
      return Promise.reject(error)
    }
  }

  callSync(target: Target, args: readonly unknown[], options?: PortOptions): unknown {
    options?.signal?.throwIfAborted()
    this.#answers.settleDrained()
    if (this.#waiting.length >= deepest) {
      throw new IsthmusError('ERR_ISTHMUS_NESTED', `calls are nested deeper than ${deepest}`)
    }
    const slot = this.#stage(kinds.call, target, args, options, frames.blocks, 0)
    const timeout = this.#timeout
    const until = timeout > 0 ? performance.now() + timeout : 0
    let large = this.native.callAndWait()
    this.#sent(slot, target)
    const control = this.#words
    const waiting = new Waiting(
      slot,
      control[words.activityLow] as number,
      control[words.activityHigh] as number,
      control[words.peer] as number,
      control[words.peerGeneration] as number,
    )
    this.#waiting.push(waiting)
    try {
      for (;;) {
        const timedOut = control[words.status] === statuses.timed_out
        this.#answers.settleAll(large)
        if (waiting.done) break
        if (this.server.queued > 0) {
          this.server.runBlocked()
          if (waiting.done) break
        }
        if (this.#isClosed) throw closedError()
        if (timedOut || (until > 0 && performance.now() >= until)) {
          this.#abandon(slot)
          throw this.#tooLate(this.#calls.name[slot] as string, timeout)
        }
        this.#doubles[doubles.timeout] = until > 0 ? Math.max(until - performance.now(), 1e-6) : 0
        large = this.native.wait()
      }
    } finally {
      this.#waiting.pop()
      if (this.#waiting.length === 0 && this.server.queued > 0) {
        control[words.queued] = this.server.queued
        this.native.rouse()
      }
    }
    if (waiting.failed) throw waiting.value
    return waiting.value
  }

  stream(
    target: Target,
    args: readonly unknown[],
    options: PortOptions | undefined,
    on: StreamEvents,
  ): StreamHandle {
    options?.signal?.throwIfAborted()
    const slot = this.#submit(target, args, options, frames.streams, options?.credit ?? initialCredit)
    let rests = false
    const end = () => {
      if (rests) this.#inFlight(1)
      rests = false
    }
    const events: StreamEvents = {
      areDeliveries: on.areDeliveries ?? false,
      items: values => on.items(values),
      end: () => {
        end()
        on.end()
      },
      fail: reason => {
        end()
        on.fail(reason)
      },
    }
    this.#calls.streams.set(slot, events)
    this.#calls.reject[slot] = events.fail
    if (this.#timeout > 0 || options?.signal !== undefined) this.#watch(slot, options?.signal)
    const isOpen = () => this.#calls.streams.get(slot) === events
    return {
      credit: more => {
        if (!isOpen()) return
        this.#words[words.slot] = slot
        this.#words[words.number] = more
        this.native.credit()
      },
      cancel: () => {
        if (isOpen()) this.#cancel(slot, 0)
      },
      rest: isIdle => {
        if (!isOpen() || rests === isIdle) return
        rests = isIdle
        this.#inFlight(isIdle ? -1 : 1)
        this.native.settled()
      },
    }
  }

  post(name: string, args: readonly unknown[], options: PortOptions | undefined): void {
    this.#stage(kinds.post, name, args, options, 0, 0)
    this.#posted = true
    this.native.submit()
    this.#sent(-1, name)
  }

  giveBack(reference: Reference): void {
    this.#objects.giveBack(reference)
    this.#flushSoon()
  }

  #submit(
    target: Target,
    args: readonly unknown[],
    options: PortOptions | undefined,
    flags: number,
    number: number,
  ): number {
    const slot = this.#stage(kinds.call, target, args, options, flags, number)
    this.#inFlight(1)
    this.native.submit()
    if (this.#words[words.status] !== OK) this.#inFlight(-1)
    this.#sent(slot, target)
    return slot
  }

  /** Stages a message and says in the control block what it is. The slot of a call. */
  #stage(
    kind: number,
    target: Target,
    args: readonly unknown[],
    options: PortOptions | undefined,
    flags: number,
    number: number,
  ): number {
    if (this.#isClosed) throw closedError()
    let named: KeywordArguments | undefined
    let timeout = 0
    if (options !== undefined) {
      if (options.kwargs !== undefined) named = new KeywordArguments(options.kwargs)
      if (options.timeout !== undefined) timeout = milliseconds(options.timeout)
      if (options.keep) flags |= frames.keeps
      if (options.lend) flags |= frames.lends
    }
    const control = this.#words
    const outer = serving()
    // What a handler has begun, and which goes on after its answer, is a call of its own.
    const isNested =
      outer !== undefined && outer.owner === this && outer.state !== 'done' && options?.detached !== true
    if (isNested && outer.deadline !== undefined) timeout = this.#inherited(outer.deadline, timeout, target)
    if (typeof target === 'string') {
      const name = target === this.#lastName ? this.#lastNumber : this.#intern(target)
      if (!Array.isArray(args))
        throw new TypeError(`the arguments of '${target}' come in an array: call('${target}', [a, b])`)
      this.#encoder.stage(args, named, undefined, options?.values)
      control[words.name] = name
      control[words.peer] = peers.any
      this.#stick(options?.sticky ?? this.#sticky)
    } else {
      this.#stageOnObject(target, args, named)
    }
    const slot = kind === kinds.call ? this.#take(target) : 0
    control[words.kind] = kind
    control[words.slot] = slot
    control[words.flags] = flags | this.#encoder.references
    control[words.number] = number
    control[words.activityLow] = isNested ? outer.activityLow : 0
    control[words.activityHigh] = isNested ? outer.activityHigh : 0
    this.#doubles[doubles.timeout] = timeout
    this.#timeout = timeout
    this.#used()
    return slot
  }

  #stick(by: string | boolean): void {
    if (typeof by === 'string') this.native.stick(by)
    else if (typeof by !== 'boolean')
      throw new TypeError(`sticky is true, false or a text that is the key, and not ${String(by)}`)
    else this.#words[words.sticky] = by ? sticky.byCaller : sticky.not
  }

  #stageOnObject(
    target: Exclude<Target, string>,
    args: readonly unknown[],
    named: KeywordArguments | undefined,
  ): void {
    const control = this.#words
    const subject = target instanceof Reference ? target : target.subject
    if (subject instanceof Reference && subject.released) {
      throw new IsthmusError('ERR_ISTHMUS_RELEASED', 'the object was released')
    }
    if (target instanceof Reference) this.#encoder.stage(args, named, target)
    else this.#encoder.stageSteps(target.subject, target.steps)
    control[words.name] = -1
    control[words.target] = target instanceof Reference ? targets.onObject : targets.operation
    control[words.peer] = subject instanceof Reference ? subject.slot : peers.any
    control[words.peerGeneration] = subject instanceof Reference ? subject.generation : 0
  }

  #inherited(deadline: number, timeout: number, target: Target): number {
    const left = deadline - performance.now()
    if (left <= 0) throw new TimeoutError(`'${shown(target)}' was not called: the caller's time has run out`)
    return timeout > 0 ? Math.min(timeout, left) : left
  }

  #take(target: Target): number {
    try {
      return this.#calls.take(shown(target))
    } catch (error) {
      this.memory.unstage(this.#words[words.firstPayload] as number)
      this.#encoder.done(false)
      throw error
    }
  }

  /** After a message was sent, or was not: frees what it was staged in. */
  #sent(slot: number, target: Target): void {
    const status = this.#words[words.status] as number
    const { moved } = this.#encoder
    const wasSent = status === OK || status === statuses.timed_out
    this.#encoder.done(wasSent)
    if (!wasSent) {
      if (slot >= 0) this.#calls.giveBack(slot)
      throw this.#answers.notSent(status, target)
    }
    if (moved !== undefined) for (const each of moved) end(each.array, 'moved')
  }

  #intern(name: string): number {
    let number = this.#names.get(name)
    if (number === undefined) {
      number = this.native.intern(name)
      this.#names.set(name, number)
    }
    this.#lastName = name
    this.#lastNumber = number
    return number
  }

  /** Gives the call up when its time is out or its signal is aborted. */
  #watch(slot: number, signal: AbortSignal | undefined): void {
    const timeout = this.#timeout
    const give = (error: unknown) => {
      const reject = this.#calls.reject[slot]
      this.#calls.forget(slot)
      this.#abandon(slot)
      this.#inFlight(-1)
      this.native.settled()
      reject?.(error)
    }
    const onAbort = signal && (() => give(signal.reason))
    const name = this.#calls.name[slot] as string
    const timer = after(timeout, () => give(this.#tooLate(name, timeout)))
    if (onAbort) listen(signal, onAbort)
    this.#calls.watch[slot] = { timer, signal, onAbort }
  }

  /** Cancels a call whose answer nobody waits for any more. One that was not sent yet gets none. */
  #abandon(slot: number): void {
    this.#cancel(slot, 1)
    if (this.#words[words.status] === statuses.cancelled) this.#calls.giveBack(slot)
  }

  /** Many that are cancelled together go in one frame. */
  #cancel(slot: number, isAbandoned: number): void {
    this.#words[words.slot] = slot
    this.#words[words.number] = isAbandoned
    this.native.cancel()
    this.#flushSoon()
  }

  #flushSoon(): void {
    if (this.#flushes) return
    this.#flushes = true
    queueMicrotask(() => {
      this.#flushes = false
      this.native.flush()
      this.native.rouse()
    })
  }

  #inFlight(more: number): void {
    this.#words[words.inFlight] = (this.#words[words.inFlight] as number) + more
  }

  #tooLate(name: string, timeout: number): TimeoutError {
    return new TimeoutError(`'${name}' did not answer within ${Math.round(timeout)} ms`)
  }

  // --- what arrives ------------------------------------------------------------------------------------------

  /** Settles what has arrived, and performs calls. The addon calls it as long as there is more. */
  #wake(): void {
    this.#answers.settleAll(this.native.drain())
    if (this.server.queued > 0) {
      this.#look()
      this.server.run(() => this.#look())
    }
    if (this.#encoder.isIdle) this.#objects.sweep()
  }

  /** Takes all that has arrived, so that calls that were cancelled meanwhile do not begin. */
  #look(): void {
    let most = mostInLook
    do {
      this.#answers.settleAll(this.native.drain())
      most -= sizes.mostFrames
    } while (this.#words[words.frames] === sizes.mostFrames && this.server.queued < mostQueued && most > 0)
  }

  // --- end ---------------------------------------------------------------------------------------------------

  /** No more calls; those in flight reject, and those that are served are cancelled. */
  stop(): void {
    this.#isClosed = true
    for (const slot of [...this.#calls.waiting()]) {
      const reject = this.#calls.reject[slot]
      this.#calls.forget(slot)
      reject?.(closedError())
    }
    this.server.close()
    this.#words[words.inFlight] = 0
  }

  /** Whether everything that was posted has arrived: it is lost if its reader has not taken it over. */
  get isDelivered(): boolean {
    if (!this.#posted) return true
    this.native.delivered()
    return this.#words[words.status] === OK
  }
}

/** What is called, in an error. */
function shown(target: Target): string {
  return typeof target === 'string' ? target : 'a remote object'
}
