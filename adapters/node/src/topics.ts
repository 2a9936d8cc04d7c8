// Topics, as those see them who publish and subscribe.

import { type Access, told, verbs } from './access.js'
import { Unreadable } from './decode.js'
import { closedError, IsthmusError } from './errors.js'
import { Closed, dropped, Intake } from './intake.js'
import { checkChoice, checkWhole, optionsOf } from './options.js'
import { Limit, noLimit, type WaitOptions, waitNames } from './waits.js'

const defaultDepth = 256
/** Messages to a subscriber. */
const mostOnTheWay = 64

/** How a topic is subscribed to. */
export interface SubscribeOptions {
  /** What happens when a message comes that there is no room for: its publisher waits, or the oldest one is dropped and counted. */
  readonly onFull?: 'wait' | 'drop-oldest'
  /** How many messages are kept, besides those on the way, of which there are as many and at most 64. 256 if not given. */
  readonly depth?: number
}

const check = {
  publish: optionsOf<WaitOptions>('publish', waitNames),
  subscribe: optionsOf<SubscribeOptions>('subscribe', { onFull: true, depth: true }),
}

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
    checkChoice('onFull', onFull, ['wait', 'drop-oldest'])
    checkWhole('depth', depth, 1)
    super(access, `the topic '${name}'`)
    const onTheWay = Math.min(depth, mostOnTheWay)
    this.#enough = Math.max(Math.floor(onTheWay / 2), 1)
    this.#start = () =>
      this.begin(verbs.subscribe, [name, onFull, depth], { credit: onTheWay + 1, detached: true })
  }

  /** Fulfilled when it has begun. */
  async open(): Promise<void> {
    if (this.#isClosed) throw closedError()
    this.#start()
    await this.next(noLimit)
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
      const news = (await told(`get from ${this.#feed.what}`, this.#feed.next(noLimit))) as News
      if (news[1] instanceof Unreadable) throw news[1].reason
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
    const limit = new Limit(`${what} had no room`, options)
    const sent = this.#access.send(verbs.publish, this.name, [value, this.name], limit)
    return told(`publish to ${what}`, sent, options.signal)
  }

  /** Messages that are published from now on. @throws TypeError or RangeError for an option that is none */
  subscribe(options: SubscribeOptions = {}): Subscription<T> {
    check.subscribe(options)
    return new Subscription<T>(this.#access, this.name, options)
  }
}
