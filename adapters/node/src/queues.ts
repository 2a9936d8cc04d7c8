// Queues and topics, as those see them who put, get, publish and subscribe. The keeper is a Python peer: isthmus/keeper.py.

import { AsyncResource } from 'node:async_hooks'
import { setTimeout as delay } from 'node:timers/promises'
import { closedError, HostLostError, IsthmusError, NotExportedError, TimeoutError } from './errors.js'
import { optionsOf } from './options.js'
import type { Port, PortOptions, StreamEvents, StreamHandle } from './port.js'
import { listen, unlisten } from './signals.js'
import { after, milliseconds } from './timers.js'

const PUT = 'isthmus.queue.put'
const CONSUME = 'isthmus.queue.consume'
const SETTLE = 'isthmus.queue.settle'
const STATS = 'isthmus.queue.stats'
const READY = 'isthmus.queue.ready'
const PUBLISH = 'isthmus.topic.publish'
const SUBSCRIBE = 'isthmus.topic.subscribe'
const starter = (bus: string) => `isthmus.keep:${bus}`

const outcomes = { acknowledged: 0, rejected: 1, untouched: 2 } as const
type Outcome = keyof typeof outcomes
/** As the number of wanted messages: none, and none are held. */
const leaves = -1
/** Items of a stream whose flow is ruled by what is wanted. */
const plenty = 2 ** 30
const defaultDepth = 256
/** Messages to a subscriber. */
const mostOnTheWay = 64
/** Puts of one queue, or messages to one topic, that have no answer yet; and those of a connection to all of them, of which
 * some 1000 fit: acknowledgements go the same way, and must not wait for room behind them. */
const mostUnanswered = 64
const mostUnansweredInAll = 256
/** Milliseconds for the keeper of a bus to be there, and between two looks. */
const patience = 2000
const lookEvery = 10

/** How long to wait. */
export interface WaitOptions {
  /** Milliseconds; after that the promise rejects with `TimeoutError`. Without it, or with 0, there is no limit. */
  readonly timeout?: number
  /** Aborting rejects with the signal's reason. */
  readonly signal?: AbortSignal
}

/** How a queue is used. */
export interface QueueOptions {
  /** How many messages the queue keeps, those that consumers hold among them: 256. The first who names it decides. */
  readonly depth?: number
  /** How many messages this consumer may hold that it has not acknowledged: 1. */
  readonly prefetch?: number
  /** How often a message is given out before it goes to the queue `dead`: 5. The first who names it decides. */
  readonly deliveries?: number
}

/** What `Queue.stats` tells. */
export interface QueueStats {
  /** Messages that nobody has yet. */
  readonly waiting: number
  /** Messages that consumers hold. */
  readonly unacknowledged: number
  /** How many puts wait for room. */
  readonly blocked: number
  /** How many messages of both kinds there may be. */
  readonly depth: number
  /** How many have been taken in since the queue began. */
  readonly put: number
  readonly acknowledged: number
  /** How often one was given out again. */
  readonly redelivered: number
  /** How many were given up, and went to the queue `dead`. */
  readonly dead: number
  /** What was said of messages that the consumer had no longer. */
  readonly late: number
}

/** How a topic is subscribed to. */
export interface SubscribeOptions {
  /** What happens when a message comes that there is no room for: its publisher waits, or the oldest one is dropped and counted. */
  readonly onFull?: 'wait' | 'drop-oldest'
  /** How many messages are kept, besides those on the way, of which there are as many and at most 64. 256 if not given. */
  readonly depth?: number
}

const waitNames = { timeout: true, signal: true } as const
const check = {
  queue: optionsOf<QueueOptions>('queue', { depth: true, prefetch: true, deliveries: true }),
  put: optionsOf<WaitOptions>('put', waitNames),
  get: optionsOf<WaitOptions>('get', waitNames),
  publish: optionsOf<WaitOptions>('publish', waitNames),
  subscribe: optionsOf<SubscribeOptions>('subscribe', { onFull: true, depth: true }),
}

/** What one connection sends to one queue or topic. What would be too many waits here, in order, and can be withdrawn without a word. */
class Lane {
  readonly #all: { unanswered: number }
  readonly #onEmpty: () => void
  readonly #waiting = new Set<() => void>()
  #unanswered = 0

  constructor(all: { unanswered: number }, onEmpty: () => void) {
    this.#all = all
    this.#onEmpty = onEmpty
  }

  /** Does the work when it is its turn, with what is left of the time; `work` begins in the turn, and not after it. */
  send<T>(work: (timeout: number | undefined) => Promise<T>, { timeout, signal }: WaitOptions): Promise<T> {
    const limit = milliseconds(timeout ?? 0)
    if (this.#mayGo() && this.#waiting.size === 0) return this.#go(work(timeout))
    if (signal?.aborted) return Promise.reject(signal.reason)
    const until = limit === 0 ? undefined : performance.now() + limit
    return new Promise((resolve, reject) => {
      const done = () => {
        this.#waiting.delete(go)
        clearTimeout(timer)
        if (signal !== undefined) unlisten(signal, onAbort)
      }
      // In the context of who sends: the call around it, and its time, are its own.
      const go = AsyncResource.bind(() => {
        done()
        resolve(this.#go(work(until === undefined ? undefined : Math.max(until - performance.now(), 1e-6))))
      })
      const giveUp = (reason: unknown) => {
        done()
        reject(reason)
      }
      const onAbort = () => giveUp(signal?.reason)
      const tooLate = () => giveUp(new TimeoutError(`nothing was sent within ${timeout} ms`))
      const timer = after(limit, tooLate)
      if (signal !== undefined) listen(signal, onAbort)
      this.#waiting.add(go)
    })
  }

  /** One may always go, so that nobody waits for the answers of others alone. */
  #mayGo(): boolean {
    if (this.#unanswered === 0) return true
    return this.#unanswered < mostUnanswered && this.#all.unanswered < mostUnansweredInAll
  }

  #go<T>(answer: Promise<T>): Promise<T> {
    ++this.#unanswered
    ++this.#all.unanswered
    return answer.finally(() => {
      --this.#unanswered
      --this.#all.unanswered
      for (const go of this.#waiting) {
        if (!this.#mayGo()) break
        go()
      }
      if (this.#unanswered === 0) this.#onEmpty()
    })
  }
}

/** @internal The way of a bus to its keeper, which is there from the first use of a queue or topic on. */
export class Access {
  readonly port: Port
  readonly #bus: string
  #isReady = false
  #finding: Promise<void> | undefined
  readonly #all = { unanswered: 0 }
  readonly #lanes = new Map<string, Lane>()

  constructor(port: Port, bus: string) {
    this.port = port
    this.#bus = bus
  }

  /** Does something once the keeper is there. What is begun first is done first. */
  async<T>(work: () => Promise<T>): Promise<T> {
    if (this.#isReady) return work()
    if (this.#finding === undefined) {
      this.#finding = this.#find()
      // Right before what waits for it is begun: who comes sooner goes behind.
      this.#finding.then(
        () => {
          this.#isReady = true
        },
        () => {
          this.#finding = undefined
        },
      )
    }
    return this.#finding.then(work)
  }

  async #find(): Promise<void> {
    const until = performance.now() + patience
    for (;;) {
      for (const name of [READY, starter(this.#bus)]) {
        try {
          await this.port.call(name, [])
          return
        } catch (error) {
          if (!(error instanceof NotExportedError)) throw error
        }
      }
      // It joins right after the first worker.
      if (performance.now() > until) throw new HostLostError(`nobody keeps the queues of '${this.#bus}'`)
      await delay(lookEvery)
    }
  }

  /** A call that is answered when there is room in the queue or topic of this name. */
  send(
    verb: string,
    name: string,
    args: readonly unknown[],
    what: string,
    options: WaitOptions,
  ): Promise<void> {
    const { timeout, signal } = options
    const sent = this.async(() => {
      const key = `${verb}:${name}`
      let lane = this.#lanes.get(key)
      if (lane === undefined) {
        lane = new Lane(this.#all, () => this.#lanes.delete(key))
        this.#lanes.set(key, lane)
      }
      return lane.send(left => this.port.call(verb, args, { timeout: left, signal, values: true }), options)
    })
    if (timeout === undefined) return sent as Promise<void>
    return sent.catch(error => {
      if (!(error instanceof TimeoutError)) throw error
      throw new TimeoutError(`${what} had no room within ${timeout} ms`)
    }) as Promise<void>
  }
}

/** When the bus is lost, an error names what was done, and not what was called for that. */
async function told<T>(doing: string, work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    throw error instanceof HostLostError ? new HostLostError(`${doing} failed:`, error.why) : error
  }
}

interface Waiter<Item> {
  resolve(item: Item): void
  reject(reason: unknown): void
}

class Closed extends IsthmusError {
  constructor(what: string) {
    super('ERR_ISTHMUS_CLOSED', `${what} was closed here`)
  }
}

/** What a stream of the keeper brings, and who waits for it. */
abstract class Intake<Item> implements StreamEvents {
  readonly access: Access
  readonly what: string
  readonly #waiters: Waiter<Item>[] = []
  #items: Item[] = []
  #handle: StreamHandle | undefined
  #failure: { readonly reason: unknown } | undefined

  constructor(access: Access, what: string) {
    this.access = access
    this.what = what
  }

  /** The program has it. */
  protected abstract taken(item: Item): void
  /** It is another number that wait, or another place that is free. */
  protected abstract adjust(): void
  /** Whether nothing can come any more after this failure. */
  protected abstract lasts(reason: unknown): boolean

  protected get handle(): StreamHandle | undefined {
    return this.#handle
  }

  protected get waiting(): number {
    return this.#waiters.length
  }

  protected get buffered(): number {
    return this.#items.length
  }

  get isOver(): boolean {
    return this.#failure !== undefined
  }

  protected begin(name: string, args: readonly unknown[], options: PortOptions): void {
    this.#handle = this.access.port.stream(name, args, options, this)
  }

  protected takeAll(): Item[] {
    const items = this.#items
    this.#items = []
    return items
  }

  /** The next item. */
  next({ timeout, signal }: WaitOptions): Promise<Item> {
    milliseconds(timeout ?? 0)
    if (signal?.aborted) return Promise.reject(signal.reason)
    const item = this.#items.shift()
    if (item !== undefined) {
      this.taken(item)
      return Promise.resolve(item)
    }
    if (this.#failure !== undefined) {
      const { reason } = this.#failure
      if (!this.lasts(reason)) this.#failure = undefined
      return Promise.reject(reason)
    }
    return new Promise((resolve, reject) => {
      const waiter = { resolve, reject }
      this.#waiters.push(waiter)
      if (timeout !== undefined || signal !== undefined) this.#limit(waiter, timeout, signal)
      try {
        this.adjust()
      } catch (error) {
        this.#waiters.splice(this.#waiters.indexOf(waiter), 1)
        waiter.reject(error)
      }
    })
  }

  #limit(waiter: Waiter<Item>, timeout: number | undefined, signal: AbortSignal | undefined): void {
    const { resolve, reject } = waiter
    const giveUp = (reason: unknown) => {
      const at = this.#waiters.indexOf(waiter)
      if (at < 0) return
      this.#waiters.splice(at, 1)
      waiter.reject(reason)
      if (!this.isOver) this.adjust()
    }
    const onAbort = () => giveUp(signal?.reason)
    const tooLate = () => giveUp(new TimeoutError(`${this.what} had no message within ${timeout} ms`))
    const timer = after(timeout ?? 0, tooLate)?.ref() // it ends a wait that a program may live for
    if (signal !== undefined) listen(signal, onAbort)
    const done = () => {
      clearTimeout(timer)
      if (signal !== undefined) unlisten(signal, onAbort)
    }
    waiter.resolve = item => {
      done()
      resolve(item)
    }
    waiter.reject = reason => {
      done()
      reject(reason)
    }
  }

  items(values: unknown[]): void {
    // What was on its way when it was closed is for others.
    if (this.isOver) return
    for (const value of values as Item[]) {
      const waiter = this.#waiters.shift()
      if (waiter === undefined) this.#items.push(value)
      else {
        this.taken(value)
        waiter.resolve(value)
      }
    }
  }

  end(): void {
    this.fail(new HostLostError(`${this.what} has ended`))
  }

  fail(reason: unknown): void {
    this.#handle = undefined
    if (this.#failure !== undefined) return
    if (this.#waiters.length === 0 || this.lasts(reason)) this.#failure = { reason }
    for (const waiter of this.#waiters.splice(0)) waiter.reject(reason)
  }
}

// --- queues --------------------------------------------------------------------------------------------------

type Delivery = readonly [tag: number, deliveries: number, value: unknown]

let consumers = 0

/** Tells the keeper how many messages it wants: as many as are waited for, or, while a loop takes them, as many as it may hold. */
class Consumer extends Intake<Delivery> {
  readonly #name: string
  readonly #agreed: readonly [depth: number | undefined, deliveries: number | undefined]
  readonly #prefetch: number
  #number = ++consumers
  // Tags of what the program has.
  readonly #held = new Set<number>()
  #loops = 0
  #wanted = 0
  #received = 0
  #fresh = 0

  constructor(access: Access, name: string, { depth, deliveries, prefetch = 1 }: QueueOptions) {
    if (!Number.isSafeInteger(prefetch) || prefetch < 1)
      throw new RangeError(`prefetch is a whole number from 1 on, and not ${prefetch}`)
    super(access, `the queue '${name}'`)
    this.#name = name
    this.#agreed = [depth, deliveries]
    this.#prefetch = prefetch
  }

  protected taken([tag]: Delivery): void {
    this.#held.add(tag)
  }

  override items(values: unknown[]): void {
    if (this.isOver) return
    this.#received += values.length
    this.#fresh += values.length
    if (this.#fresh > plenty / 2) {
      this.handle?.credit(this.#fresh)
      this.#fresh = 0
    }
    super.items(values)
    this.#leaveUntouched()
    this.#rest()
  }

  override fail(reason: unknown): void {
    this.takeAll()
    this.#held.clear()
    this.#wanted = this.#received = this.#fresh = 0
    this.#number = ++consumers
    super.fail(reason)
  }

  /** What can't be read here ends the stream, and is given out again: the next `get` begins anew. */
  protected lasts(reason: unknown): boolean {
    return reason instanceof Closed
  }

  protected adjust(): void {
    const wanted = this.#wanted
    this.#want()
    try {
      if (this.#wanted !== wanted) this.#tell('acknowledged', [])
    } catch (error) {
      this.#wanted = wanted // nobody knows of more
      throw error
    }
    this.#rest()
  }

  #want(): void {
    let room = this.#prefetch - this.#held.size - this.buffered
    if (this.#loops === 0) room = Math.min(room, this.waiting)
    this.#wanted = this.#received + Math.max(room, 0)
  }

  /** What nobody waits for (any more) is for others. */
  #leaveUntouched(): void {
    if (this.#loops > 0 || this.buffered === 0) return
    const tags = this.takeAll().map(([tag]) => tag)
    this.#want()
    this.#tell('untouched', tags)
  }

  /** It begins with the first message that is wanted. */
  #tell(outcome: Outcome, tags: readonly number[]): void {
    const { access } = this
    if (this.handle !== undefined) {
      access.port.post(SETTLE, [this.#name, this.#number, this.#wanted, outcomes[outcome], tags], {
        detached: true,
      })
    } else if (this.#wanted > 0) {
      const args = [this.#name, ...this.#agreed, this.#prefetch, this.#number, this.#wanted]
      this.begin(CONSUME, args, { credit: plenty, detached: true })
    }
  }

  /** The event loop need not go on for what nobody waits for. */
  #rest(): void {
    this.handle?.rest(this.waiting === 0 && this.#loops === 0)
  }

  settle(tag: number, outcome: Outcome): void {
    if (!this.#held.has(tag)) {
      throw new IsthmusError(
        'ERR_ISTHMUS_CLOSED',
        `${this.what} was closed, or lost, before the message was acknowledged: it went back, and another consumer gets it`,
      )
    }
    this.#held.delete(tag)
    this.#want()
    try {
      this.#tell(outcome, [tag])
    } catch (error) {
      this.#held.add(tag)
      throw error
    }
  }

  /** One more or one less takes messages in a loop. */
  loop(more: 1 | -1): void {
    this.#loops += more
    if (this.isOver) return
    this.#leaveUntouched()
    this.adjust()
  }

  close(): void {
    if (!this.isOver && this.handle !== undefined) {
      this.#wanted = leaves
      try {
        this.#tell(
          'untouched',
          this.takeAll().map(([tag]) => tag),
        )
      } catch (error) {
        // The connection was closed before, and nobody keeps anything.
        if (!(error instanceof IsthmusError)) throw error
      }
      this.handle.rest(true)
    }
    this.fail(new Closed(this.what))
  }
}

/**
 * A message of a queue, kept there until it is acknowledged. Arrays in it lie in the memory of the bus.
 */
export class Message<T = unknown> {
  /** What was put. */
  readonly value: T
  /** How often it was given out: from 2 on somebody had it before, and died or rejected it. */
  readonly deliveries: number
  /** @internal */
  readonly queue: Queue<T>
  readonly #tag: number
  readonly #consumer: Consumer
  #settled: Outcome | undefined

  /** @internal */
  constructor(queue: Queue<T>, consumer: Consumer, delivery: Delivery) {
    this.queue = queue
    this.#consumer = consumer
    this.#tag = delivery[0]
    this.deliveries = delivery[1]
    this.value = delivery[2] as T
  }

  /** It is dealt with: the queue forgets it. @throws IsthmusError the second time, and once the queue was closed */
  ack(): void {
    this.#settle('acknowledged')
  }

  /** It is not dealt with: another consumer, or this one, gets it again, before later ones. */
  reject(): void {
    this.#settle('rejected')
  }

  #settle(outcome: Outcome): void {
    if (this.#settled !== undefined)
      throw new IsthmusError('ERR_ISTHMUS_RELEASED', `the message was ${this.#settled} already`)
    this.#consumer.settle(this.#tag, outcome)
    this.#settled = outcome
  }
}

// What nobody can close any more.
const dropped = new FinalizationRegistry<{ close(): void }>(intake => intake.close())

/**
 * A queue of a bus. Each message goes to one consumer, and is kept until that acknowledges it; a consumer that dies, leaves or
 * closes gives back what it has, which others get before what came later. What a producer puts arrives in that order.
 *
 * It consumes from the first `get` or loop on, until `close`: `for await (const message of queue) { …; message.ack() }`.
 */
export class Queue<T = unknown> implements AsyncIterable<Message<T>>, AsyncDisposable {
  readonly name: string
  readonly #access: Access
  readonly #options: QueueOptions
  readonly #consumer: Consumer

  /** @internal */
  constructor(access: Access, name: string, options: QueueOptions) {
    check.queue(options)
    this.name = name
    this.#access = access
    this.#options = options
    this.#consumer = new Consumer(access, name, options)
    dropped.register(this, this.#consumer, this)
  }

  /**
   * Puts a value. The promise is fulfilled when the queue has taken it in, that is, when it has room: don't change the value before,
   * as it is sent when it is its turn. An array in bus memory is lent and not copied: don't change it before it was acknowledged.
   *
   * @throws (as a rejection) EncodeError for what has no value form, such as a function; TimeoutError or the signal's reason: it was
   * not taken in then, unless that crossed with the answer; HostLostError.
   */
  async put(value: T, options: WaitOptions = {}): Promise<void> {
    check.put(options)
    const { depth, deliveries } = this.#options
    const { what } = this.#consumer
    const args = [value, this.name, depth, deliveries]
    return told(`put to ${what}`, this.#access.send(PUT, this.name, args, what, options))
  }

  /**
   * The next message, once there is one and this consumer may hold one more (`prefetch`).
   *
   * @throws (as a rejection) TimeoutError, the signal's reason, HostLostError, or IsthmusError when the queue is closed meanwhile.
   */
  async get(options: WaitOptions = {}): Promise<Message<T>> {
    check.get(options)
    const getting = this.#access.async(() => this.#consumer.next(options))
    const delivery = await told(`get from ${this.#consumer.what}`, getting)
    return new Message<T>(this, this.#consumer, delivery)
  }

  /** The same as `message.ack()`, for messages of this object. */
  ack(message: Message<T>): void {
    if (message.queue !== this)
      throw new IsthmusError('ERR_ISTHMUS_FAILED', 'the message came from another object: use message.ack()')
    message.ack()
  }

  /** Messages, until the queue is closed. Each has to be acknowledged. Leaving the loop gives back what it has not taken. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Message<T>> {
    let isOver = false
    let counts = false // among those that take messages in a loop
    const leave = () => {
      if (counts) this.#consumer.loop(-1)
      counts = false
      isOver = true
      return { done: true, value: undefined } as const
    }
    // Before the keeper is there nothing is wanted.
    const begun = told(
      `get from ${this.#consumer.what}`,
      this.#access.async(async () => {
        counts = true
        this.#consumer.loop(1)
      }),
    )
    begun.catch(() => {})
    return {
      next: async () => {
        if (isOver) return leave()
        try {
          await begun
          return { done: false, value: await this.get() }
        } catch (error) {
          leave()
          if (error instanceof Closed) return leave()
          throw error
        }
      },
      return: async () => {
        await begun
        return leave()
      },
      [Symbol.asyncIterator]() {
        return this
      },
    }
  }

  /** The queue of what was given out too often and never acknowledged: `<name>.dead`. */
  get dead(): Queue<T> {
    return new Queue<T>(this.#access, `${this.name}.dead`, {})
  }

  /** How many messages there are, and what has become of them. */
  async stats(): Promise<QueueStats> {
    const { depth, deliveries } = this.#options
    const asked = this.#access.async(() => this.#access.port.call(STATS, [this.name, depth, deliveries]))
    return told(`stats of ${this.#consumer.what}`, asked as Promise<unknown> as Promise<QueueStats>)
  }

  /** Consumes no more: what it holds and has not acknowledged goes to others. The queue stays. */
  async close(): Promise<void> {
    dropped.unregister(this)
    this.#consumer.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

// --- topics --------------------------------------------------------------------------------------------------

/** How many were dropped so far, and a value; the first item is null, and says that the subscription has begun. */
type News = readonly [dropped: number, value: unknown]

/** Lets the keeper send as much as was taken. */
class Feed extends Intake<News | null> {
  dropped = 0
  readonly #enough: number
  // The first item is none.
  #fresh = -1
  #isClosed = false

  readonly #start: () => void

  constructor(access: Access, name: string, { onFull = 'wait', depth = defaultDepth }: SubscribeOptions) {
    super(access, `the topic '${name}'`)
    const onTheWay = Math.max(Math.min(depth, mostOnTheWay), 1)
    this.#enough = Math.max(Math.floor(onTheWay / 2), 1)
    this.#start = () => this.begin(SUBSCRIBE, [name, onFull, depth], { credit: onTheWay + 1, detached: true })
  }

  /** Fulfilled when it has begun. */
  async open(): Promise<void> {
    if (this.#isClosed) throw closedError()
    this.#start()
    await this.next({})
  }

  protected taken(news: News | null): void {
    if (news !== null) this.dropped = news[0]
    if (++this.#fresh < this.#enough) return
    this.handle?.credit(this.#fresh)
    this.#fresh = 0
  }

  protected adjust(): void {
    this.handle?.rest(false)
  }

  protected lasts(): boolean {
    return true
  }

  override items(values: unknown[]): void {
    super.items(values)
    this.handle?.rest(this.waiting === 0)
  }

  close(): void {
    this.#isClosed = true
    const { handle } = this
    handle?.cancel()
    handle?.rest(true)
    this.takeAll()
    this.fail(new Closed(this.what))
  }
}

/** The messages of a topic, from `Topic.subscribe` on, as an async iterator. Leaving a `for await` loop closes it. */
export class Subscription<T = unknown> implements AsyncIterableIterator<T>, AsyncDisposable {
  /** Fulfilled when it has begun: what others publish then comes here. What this isolate publishes comes in any case. */
  readonly ready: Promise<void>
  readonly #feed: Feed

  /** @internal */
  constructor(access: Access, name: string, options: SubscribeOptions) {
    const feed = new Feed(access, name, options)
    this.#feed = feed
    this.ready = told(
      `subscribe to ${feed.what}`,
      access.async(() => feed.open()),
    )
    // Who does not wait for it finds the failure in `next`.
    this.ready.catch(reason => feed.fail(reason))
    dropped.register(this, feed, this)
  }

  /** How many messages it has missed before the one that it gave last. */
  get dropped(): number {
    return this.#feed.dropped
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    try {
      await this.ready
      const news = (await told(`get from ${this.#feed.what}`, this.#feed.next({}))) as News
      return { done: false, value: news[1] as T }
    } catch (error) {
      if (this.#feed.isOver && error instanceof IsthmusError && error.code === 'ERR_ISTHMUS_CLOSED')
        return { done: true, value: undefined }
      throw error
    }
  }

  async return(): Promise<IteratorResult<T, undefined>> {
    await this.close()
    return { done: true, value: undefined }
  }

  /** Takes no more. Nobody waits for it then. */
  async close(): Promise<void> {
    dropped.unregister(this)
    this.#feed.close()
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** A topic of a bus: each message goes to all who have subscribed by then. */
export class Topic<T = unknown> {
  readonly name: string
  readonly #access: Access

  /** @internal */
  constructor(access: Access, name: string) {
    this.name = name
    this.#access = access
  }

  /** Sends a value to all who have subscribed. The promise is fulfilled when each has it, or room for it; it rejects like `Queue.put`. */
  async publish(value: T, options: WaitOptions = {}): Promise<void> {
    check.publish(options)
    const what = `the topic '${this.name}'`
    const sent = this.#access.send(PUBLISH, this.name, [value, this.name], what, options)
    return told(`publish to ${what}`, sent)
  }

  /** Messages that are published from now on. */
  subscribe(options: SubscribeOptions = {}): Subscription<T> {
    check.subscribe(options)
    return new Subscription<T>(this.#access, this.name, options)
  }
}
