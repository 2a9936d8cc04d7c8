// Queues, as those see them who put and get.

import { type Access, told, verbs } from './access.js'
import { Unreadable } from './decode.js'
import { IsthmusError } from './errors.js'
import { Closed, dropped, Intake } from './intake.js'
import { checkWhole, optionsOf } from './options.js'
import { Limit, type WaitOptions, waitNames } from './waits.js'

const outcomes = { acknowledged: 0, rejected: 1, untouched: 2 } as const
type Outcome = keyof typeof outcomes
/** As the number of wanted messages: none, and none are held. */
const leaves = -1
/** Items of a stream whose flow is ruled by what is wanted. */
const plenty = 2 ** 30

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

const check = {
  queue: optionsOf<QueueOptions>('queue', { depth: true, prefetch: true, deliveries: true }),
  put: optionsOf<WaitOptions>('put', waitNames),
  get: optionsOf<WaitOptions>('get', waitNames),
}

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
    for (const [option, value] of Object.entries({ depth, deliveries, prefetch }))
      if (value !== undefined) checkWhole(option, value, 1)
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

  /** What ends the stream gives back all that is held: the next `get` begins anew. */
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
      access.port.post(verbs.settle, [this.#name, this.#number, this.#wanted, outcomes[outcome], tags], {
        detached: true,
      })
    } else if (this.#wanted > 0) {
      const args = [this.#name, ...this.#agreed, this.#prefetch, this.#number, this.#wanted]
      this.begin(verbs.consume, args, { credit: plenty, detached: true })
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

  /** What can't be read. It may have gone back by itself meanwhile. */
  reject(tag: number): void {
    if (this.#held.has(tag)) this.settle(tag, 'rejected')
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
    const limit = new Limit(`${what} had no room`, options)
    return told(`put to ${what}`, this.#access.send(verbs.put, this.name, args, limit), options.signal)
  }

  /**
   * The next message, once there is one and this consumer may hold one more (`prefetch`).
   *
   * @throws (as a rejection) TimeoutError, the signal's reason, HostLostError, or IsthmusError when the queue is closed meanwhile.
   */
  async get(options: WaitOptions = {}): Promise<Message<T>> {
    check.get(options)
    const { what } = this.#consumer
    const limit = new Limit(`${what} had no message`, options)
    const getting = this.#access.async(() => this.#consumer.next(limit), limit)
    const delivery = await told(`get from ${what}`, getting, options.signal)
    if (delivery[2] instanceof Unreadable) {
      this.#consumer.reject(delivery[0])
      throw delivery[2].reason
    }
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
    const asked = this.#access.async(() =>
      this.#access.port.call(verbs.stats, [this.name, depth, deliveries]),
    )
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
