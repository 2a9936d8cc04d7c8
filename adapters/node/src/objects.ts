// Objects that do not travel: this isolate's own, which others refer to, and the proxies of theirs.

import { IsthmusError } from './errors.js'
import { constants, type NativeConnection } from './native.js'
import { type Port, Reference, referenceOf } from './port.js'
import { makeProxy } from './remote.js'

const { words, doubles } = constants

/** A value that is lent, though it could travel. */
export class Lent {
  constructor(
    readonly value: unknown,
    readonly flags: number,
  ) {}
}

const collected = new FinalizationRegistry<Reference>(reference => reference.port.giveBack(reference))

export class Objects {
  readonly #native: NativeConnection
  readonly #words: Int32Array
  readonly #doubles: Float64Array
  readonly #port: Port
  // Own objects, while others refer to them. An object has one id as long as it is here.
  readonly #own = new Map<number, unknown>()
  readonly #ids = new WeakMap<object, number>()
  // How often those are in messages that are being staged which no message has brought to anybody yet.
  readonly #pending = new Map<number, number>()
  #lastId = 0
  // By the owner's place, then by id.
  readonly #proxies = new Map<number, Map<number, WeakRef<object>>>()

  constructor(native: NativeConnection, control: ArrayBuffer, port: Port) {
    this.#native = native
    this.#words = new Int32Array(control)
    this.#doubles = new Float64Array(control)
    this.#port = port
  }

  get selfSlot(): number {
    return this.#words[words.selfSlot] as number
  }

  get selfGeneration(): number {
    return this.#words[words.selfGeneration] as number
  }

  /** The id of an object that is about to be sent; negative as long as it was never sent, of which `sent` or `unsent` is told. */
  lend(value: unknown): number {
    const isObject = (typeof value === 'object' && value !== null) || typeof value === 'function'
    let id = isObject ? this.#ids.get(value) : undefined
    if (id === undefined) {
      id = ++this.#lastId
      this.#own.set(id, value)
      if (isObject) this.#ids.set(value, id)
      this.#pending.set(id, 0)
    }
    const pending = this.#pending.get(id)
    if (pending === undefined) return id
    this.#pending.set(id, pending + 1)
    return -id
  }

  /** A message with these is on its way. */
  sent(ids: readonly number[]): void {
    for (const id of ids) this.#pending.delete(id)
  }

  /** A message with these was not sent. Another one, staged while this one was, may have brought them to somebody. */
  unsent(ids: readonly number[]): void {
    for (const id of ids) {
      const pending = this.#pending.get(id)
      if (pending === undefined) continue
      this.#pending.set(id, pending - 1)
      if (pending > 1) continue
      this.#pending.delete(id)
      this.#forget(id)
    }
  }

  #forget(id: number): void {
    const value = this.#own.get(id)
    this.#own.delete(id)
    if ((typeof value === 'object' && value !== null) || typeof value === 'function') this.#ids.delete(value)
  }

  /** Lets go of what nobody refers to. Every frame that was drained must have been decoded. */
  sweep(): void {
    const free = this.#native.takeFree()
    if (free !== undefined) for (const id of free) this.#forget(id)
  }

  /** What a reference that has arrived stands for. */
  received(slot: number, generation: number, id: number, flags: number): unknown {
    if (slot === this.selfSlot && generation === this.selfGeneration) {
      if (this.#own.has(id)) return this.#own.get(id)
      throw new IsthmusError('ERR_ISTHMUS_RELEASED', 'the object was released')
    }
    const place = generation * 64 + slot
    let proxies = this.#proxies.get(place)
    if (proxies === undefined) {
      proxies = new Map()
      this.#proxies.set(place, proxies)
    }
    const known = proxies.get(id)?.deref()
    const reference = referenceOf(known)
    if (reference !== undefined && !reference.released) {
      ++reference.uses
      return known
    }
    const made = new Reference(slot, generation, id, flags, this.#port)
    made.uses = 1
    const proxy = makeProxy(made)
    proxies.set(id, new WeakRef(proxy))
    collected.register(proxy, made, made)
    return proxy
  }

  /** A reference that arrived and that nobody will see. */
  discard(slot: number, generation: number, id: number): void {
    if (slot !== this.selfSlot || generation !== this.selfGeneration) this.#giveBack(slot, generation, id, 1)
  }

  giveBack(reference: Reference): void {
    if (reference.released) return
    reference.released = true
    collected.unregister(reference)
    const place = reference.generation * 64 + reference.slot
    const proxies = this.#proxies.get(place)
    const known = proxies?.get(reference.id)?.deref()
    if (known === undefined || referenceOf(known) === reference) proxies?.delete(reference.id)
    if (proxies?.size === 0) this.#proxies.delete(place)
    this.#giveBack(reference.slot, reference.generation, reference.id, reference.uses)
  }

  #giveBack(slot: number, generation: number, id: number, uses: number): void {
    this.#words[words.peer] = slot
    this.#words[words.peerGeneration] = generation
    this.#words[words.number] = uses
    this.#doubles[doubles.object] = id
    this.#native.giveBack()
  }
}
