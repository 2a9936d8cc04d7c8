// The other way: calls of this isolate's exports and functions, from their arrival to their answer.

import { Serving, serve } from './context.js'
import type { Decoder } from './decode.js'
import type { Encoder } from './encode.js'
import { blockedError, errorOf } from './errors.js'
import { constants, type NativeConnection } from './native.js'
import { Replies } from './replies.js'

const { kinds, fields, statuses, words, frames, targets } = constants
const OK = statuses.ok
/** Milliseconds after which answers are shown and cancels looked for, and after which the event loop has its turn. */
const longestBatch = 0.1
const longestTurn = 1
/** Milliseconds of waiting for cancels: less is not worth it, and more is too much. */
const leastPatience = 0.5
const mostPatience = 20
/** Places of calls that have begun, in the queue: not worth tidying. */
const fewPlaces = 64

/** A call that its isolate is blocked in: calls that are a part of it are performed meanwhile, and no others. */
export interface Blocked {
  readonly activityLow: number
  readonly activityHigh: number
  readonly peer: number
  readonly peerGeneration: number
}

// biome-ignore lint/suspicious/noExplicitAny: any function can be exported
export type Handler = (...args: any[]) => unknown

interface Exported {
  readonly name: string
  handler: Handler
}

export class Server {
  readonly #owner: object
  readonly #native: NativeConnection
  readonly #words: Int32Array
  readonly #descriptors: Int32Array
  readonly #replies: Replies
  readonly #decoder: Decoder
  /** The calls that this isolate is blocked in, the innermost one last. */
  readonly #blocked: readonly Blocked[]
  readonly #exports: Exported[] = []
  readonly #indices = new Map<string, number>()
  // Calls that wait for their turn.
  #queue: (Serving | undefined)[] = []
  #head = 0
  #queued = 0
  // What calls that have begun are to be told once the isolate is free.
  #untold: { readonly call: Serving; readonly tell: () => void }[] = []
  // Where the call that was cancelled last is in the queue.
  #found = -1
  #received = 0
  #took = 0

  constructor(
    owner: object,
    native: NativeConnection,
    control: Int32Array,
    descriptors: Int32Array,
    encoder: Encoder,
    decoder: Decoder,
    blocked: readonly Blocked[],
  ) {
    this.#owner = owner
    this.#native = native
    this.#words = control
    this.#descriptors = descriptors
    this.#replies = new Replies(native, control, encoder, blocked)
    this.#decoder = decoder
    this.#blocked = blocked
  }

  /** How many calls wait for their turn, or to be told something. */
  get queued(): number {
    return this.#queued + this.#untold.length
  }

  export(name: string, handler: Handler): void {
    const known = this.#indices.get(name)
    if (known !== undefined) {
      ;(this.#exports[known] as Exported).handler = handler
      return
    }
    this.#native.publish([...this.#indices.keys(), name])
    const status = this.#words[words.status] as number
    if (status !== OK) throw errorOf(status, `the export '${name}'`)
    this.#indices.set(name, this.#exports.length)
    this.#exports.push({ name, handler })
    this.#words[words.exported] = this.#exports.length
    this.#native.settled()
  }

  // --- arrival -----------------------------------------------------------------------------------------------

  /** A call, post, cancel or credit, or that a peer is gone. */
  receive(at: number): void {
    ++this.#received
    const descriptors = this.#descriptors
    const kind = descriptors[at + fields.kind]
    if (kind === kinds.call || kind === kinds.post) this.#arrive(at, kind === kinds.post)
    else if (kind === kinds.cancel) this.#find(at, call => this.#cancel(call))
    else if (kind === kinds.credit) {
      const more = (descriptors[at + fields.number] as number) >>> 0
      this.#find(at, call => this.#tell(call, () => call.outlet?.onCredit(more)))
    } else if (kind === constants.peers.gone) {
      const peer = descriptors[at + fields.peer]
      const generation = descriptors[at + fields.peerGeneration]
      // What is told of the end may make calls, and so have the queue tidied.
      for (const call of [...this.#waiting()]) {
        if (call.peer !== peer || call.peerGeneration !== generation) continue
        if (call.state === 'queued') call.state = 'done'
        this.#tell(call, () => call.cancel())
      }
    }
  }

  #arrive(at: number, isPost: boolean): void {
    const descriptors = this.#descriptors
    const field = (name: number) => descriptors[at + name] as number
    const target = field(fields.target)
    const cells = field(fields.cells)
    const payloads = field(fields.payloads)
    const timeLeft = field(fields.timeLeft)
    let args: unknown[] = []
    let failure: unknown
    const exported =
      target >= 0 ? this.#exports[target] : target === targets.nameOnly ? this.#named(at) : undefined
    let name = exported?.name ?? ''
    let handler: unknown = exported?.handler
    try {
      args = this.#decoder.values(
        cells,
        field(fields.cellCount),
        field(fields.heap),
        payloads,
        field(fields.payloadCount),
      )
    } catch (error) {
      this.#decoder.giveUp(cells, field(fields.cellCount))
      failure = error
    }
    if (target === targets.onObject) handler = args.shift()
    else if (target === targets.nameOnly && exported === undefined) {
      name = this.#decoder.name(field(fields.name), field(fields.nameBytes))
    }
    const peer = field(fields.peer)
    const generation = field(fields.peerGeneration)
    const call = new Serving(
      this.#owner,
      isPost,
      peer,
      generation,
      field(fields.idLow),
      field(fields.idHigh),
      target === targets.nameOnly && exported !== undefined
        ? (this.#indices.get(exported.name) as number)
        : target,
      field(fields.flags),
      field(fields.number) >>> 0,
      field(fields.activityLow),
      field(fields.activityHigh),
      field(fields.nested) !== 0 || target === targets.onObject,
      timeLeft > 0 ? performance.now() + timeLeft : undefined,
      name,
      handler,
      args,
      () => this.#native.label(peer, generation) ?? '',
    )
    if (failure !== undefined) this.#replies.fail(call, failure)
    else if (timeLeft < 0) this.#replies.refuse(call, statuses.timed_out)
    else if (handler === undefined && target !== targets.operation && target !== targets.onObject) {
      this.#replies.notExported(call, this.#indices.keys())
    } else {
      this.#queue.push(call)
      ++this.#queued
    }
  }

  #named(at: number): Exported | undefined {
    const bytes = this.#descriptors[at + fields.nameBytes] as number
    const index = this.#indices.get(this.#decoder.name(this.#descriptors[at + fields.name] as number, bytes))
    return index === undefined ? undefined : this.#exports[index]
  }

  *#waiting(): Iterable<Serving> {
    for (let i = this.#head; i < this.#queue.length; ++i) {
      const call = this.#queue[i]
      if (call !== undefined) yield call
    }
    yield* this.#replies.running
  }

  #find(at: number, found: (call: Serving) => void): void {
    const descriptors = this.#descriptors
    const isIt = (call: Serving | undefined) =>
      call !== undefined &&
      call.idLow === descriptors[at + fields.idLow] &&
      call.idHigh === descriptors[at + fields.idHigh] &&
      call.peer === descriptors[at + fields.peer] &&
      call.peerGeneration === descriptors[at + fields.peerGeneration]
    for (const call of this.#replies.running) {
      if (isIt(call)) {
        found(call)
        return
      }
    }
    // Calls are mostly cancelled in the order in which they were made.
    const { length } = this.#queue
    const first = Math.max(this.#head, this.#found + 1)
    for (let i = first; i < length + first - this.#head; ++i) {
      const index = i < length ? i : i - length + this.#head
      const call = this.#queue[index]
      if (!isIt(call)) continue
      this.#found = index
      found(call as Serving)
      return
    }
  }

  /** A call that has not begun never will. */
  #cancel(call: Serving): void {
    const isQueued = call.state === 'queued'
    this.#tell(call, () => call.cancel())
    if (isQueued) this.#replies.refuse(call, statuses.cancelled)
  }

  /** What a call that has begun is told may run code of its handler, which has its turn, too. */
  #tell(call: Serving, tell: () => void): void {
    if (call.state === 'running' && (this.#untold.length > 0 || !this.#mayRun(call))) {
      this.#untold.push({ call, tell })
    } else tell()
  }

  #tellUntold(): void {
    const untold = this.#untold
    this.#untold = []
    for (const each of untold) {
      if (this.#mayRun(each.call)) each.tell()
      else this.#untold.push(each)
    }
  }

  /** Whether a call is a part of what this isolate is blocked in, if it is. */
  #mayRun(call: Serving): boolean {
    const awaited = this.#blocked.at(-1)
    return awaited === undefined || isPartOf(call, this.#blocked, awaited)
  }

  // --- turn --------------------------------------------------------------------------------------------------

  /** Performs calls that wait, for a while; `look` takes what has arrived meanwhile. */
  run(look: () => void): void {
    this.#tellUntold()
    this.#awaitCancels(look)
    const began = performance.now()
    let batch = began
    const end = batch + longestTurn
    try {
      while (this.#head < this.#queue.length) {
        const call = this.#queue[this.#head] as Serving | undefined
        this.#queue[this.#head++] = undefined
        if (call === undefined) continue
        --this.#queued
        if (call.state === 'queued') this.#perform(call)
        const now = performance.now()
        if (now > batch + longestBatch) {
          this.#native.flush()
          if (now > end) break
          look()
          batch = now
        }
      }
    } finally {
      this.#tidy()
      this.#words[words.queued] = this.queued
      this.#words[words.serving] = 1
      this.#took = performance.now() - began
    }
  }

  /** Forgets the places of calls that have begun, once most of the queue is such. */
  #tidy(): void {
    const places = this.#queue.length - this.#head
    if (places > 2 * this.#queued + fewPlaces) {
      this.#queue = this.#queue.slice(this.#head).filter(call => call !== undefined)
    } else if (places === 0) this.#queue = []
    else return
    this.#head = 0
    this.#found = -1
  }

  /** Cancels that had no room in the ring while a handler took long come now, before what they cancel is begun. */
  #awaitCancels(look: () => void): void {
    // What the wait costs is a small part of what the turn before took.
    const patience = Math.min(this.#took / 20, mostPatience)
    this.#took = 0
    if (patience < leastPatience) return
    this.#native.flush()
    const end = performance.now() + mostPatience
    for (let until = performance.now() + patience; performance.now() < Math.min(until, end); ) {
      const before = this.#received
      look()
      if (this.#received === before) continue
      this.#native.flush()
      until = performance.now() + patience
    }
  }

  /** Performs those calls that a blocked isolate must not leave waiting, because its own depend on them. */
  runBlocked(): void {
    this.#tellUntold()
    try {
      for (let i = this.#head; i < this.#queue.length; ++i) {
        const call = this.#queue[i]
        if (call === undefined || !this.#mayRun(call)) continue
        this.#queue[i] = undefined
        --this.#queued
        if (call.state === 'queued') this.#perform(call)
      }
    } finally {
      // One that is blocked around this one goes through the queue itself.
      if (this.#blocked.length === 1) this.#tidy()
      this.#words[words.queued] = this.queued
    }
  }

  #perform(call: Serving): void {
    if (call.deadline !== undefined && call.deadline <= performance.now()) {
      this.#replies.refuse(call, statuses.timed_out)
      return
    }
    call.state = 'running'
    this.#replies.running.add(call)
    let promise: Promise<unknown>
    try {
      const result = serve(call, invoke)
      if (!isThenable(result)) {
        this.#replies.finish(call, result)
        return
      }
      promise = Promise.resolve(result)
    } catch (error) {
      this.#replies.fail(call, error)
      return
    }
    if (this.#blocked.length > 0) {
      promise.catch(() => {})
      const what = call.name === '' ? 'the function' : `'${call.name}'`
      const instead = 'return a value, or call with await there'
      this.#replies.fail(call, blockedError(`${what} returned a promise`, instead))
      return
    }
    promise.then(
      value => this.#replies.finish(call, value),
      error => this.#replies.fail(call, error),
    )
  }

  /** The connection is closed: nobody is answered any more. */
  close(): void {
    const calls = [...this.#waiting()]
    this.#queue = []
    this.#untold = []
    this.#head = this.#queued = 0
    this.#words[words.queued] = 0
    for (const call of calls) {
      call.cancel()
      this.#replies.done(call)
    }
  }
}

/** Also what the awaited peer blocks for, where the addon has left that flag on its calls: else both would wait for ever. */
function isPartOf(call: Serving, blocked: readonly Blocked[], awaited: Blocked): boolean {
  if (
    (call.flags & frames.blocks) !== 0 &&
    call.peer === awaited.peer &&
    call.peerGeneration === awaited.peerGeneration
  ) {
    return true
  }
  return blocked.some(
    each => each.activityLow === call.activityLow && each.activityHigh === call.activityHigh,
  )
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  if (value === null || (typeof value !== 'object' && typeof value !== 'function')) return false
  return typeof (value as { then?: unknown }).then === 'function'
}

function invoke(call: Serving): unknown {
  const { handler, args } = call
  if (call.target !== targets.operation) {
    if (typeof handler === 'function') return handler(...args)
    if ((call.flags & frames.streams) !== 0 && args.length === 0) return handler
    throw new TypeError(`a value of type ${typeof handler} can't be called`)
  }
  const [subject, step] = args
  if (typeof subject === 'string')
    throw new TypeError(`'${subject}' can't be imported: JavaScript offers no modules`)
  if (step === undefined) return subject
  const name = Array.isArray(step) ? step.slice(0, 2).join(' ') : String(step)
  throw new TypeError(`a JavaScript object can be called and iterated over, but not accessed (${name})`)
}
