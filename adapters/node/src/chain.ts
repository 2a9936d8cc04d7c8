// Accesses of remote objects: noted one by one, and sent as one message.

import { serving } from './context.js'
import { EncodeError } from './errors.js'
import {
  type Port,
  type PortOptions,
  type Reference,
  referenceOf,
  type Step,
  type StreamEvents,
  type StreamHandle,
} from './port.js'

/** Where a chain begins: an object, with the proxy that keeps it from being collected, or a module. */
export interface Root {
  readonly subject: Reference | string
  readonly proxy: object | undefined
}

/** Where a message begins, and what it performs there. */
interface Message {
  readonly subject: Reference | string
  readonly steps: readonly Step[]
}

interface Path {
  readonly base: Access | Root
  readonly accesses: readonly Access[]
}

/** Under this key, a chain tells its access. A WeakMap of so many short-lived objects would cost the garbage collector dear. */
export const accessKey = Symbol('access')

/** The access that a chain stands for. */
export function accessOf(value: unknown): Access | undefined {
  if (value === null || (typeof value !== 'object' && typeof value !== 'function')) return undefined
  return (value as { [accessKey]?: Access })[accessKey]
}

/** Whether a value is a chain, which nobody has awaited. */
export function isChain(value: unknown): boolean {
  return accessOf(value) !== undefined
}

/** Accesses that go out together: those of one call that is being served here, or of none. */
interface Batch {
  readonly served: unknown
  readonly accesses: Access[]
}

let planned: Batch | undefined

/** `await` asks for a value in the next microtask, so what nobody asks for is known in the one after it. */
function plan(access: Access): void {
  const served = serving()
  if (planned === undefined || planned.served !== served) {
    const batch: Batch = { served, accesses: [] }
    planned = batch
    queueMicrotask(() => queueMicrotask(() => run(batch)))
  }
  planned.accesses.push(access)
}

function run(batch: Batch): void {
  if (planned === batch) planned = undefined
  for (const access of batch.accesses) access.run()
}

/** One access of a chain: an attribute, an item, a call. What it leads to is evaluated at most once. */
export class Access {
  readonly port: Port
  readonly from: Access | Root
  readonly step: Step | undefined
  // The chains among the arguments: their results are passed on without coming here.
  readonly #needs: readonly Access[]
  // How often something goes on from the result: an access, an iteration, a call that has it as an argument.
  #uses = 0
  // Whether the message of an access further on has evaluated it, so that its result is gone.
  #spent = false
  #value: Promise<unknown> | undefined
  #settle: ((value: unknown) => void) | undefined
  #kept: Promise<unknown> | undefined

  constructor(port: Port, from: Access | Root, step: Step | undefined) {
    this.port = port
    this.from = from
    this.step = step
    this.#needs = step?.[0] === 'call' ? chainsOf(step) : none
    for (const each of this.#needs) each.use()
    if (from instanceof Access) from.use()
    if (this.#isCall) plan(this)
  }

  get #isCall(): boolean {
    return this.step === undefined || this.step[0] === 'call'
  }

  /** Something goes on from the result. */
  use(): this {
    ++this.#uses
    return this
  }

  /** What it leads to, as a value if it has a value form. */
  value(): Promise<unknown> {
    if (this.#value === undefined) {
      if (this.#kept !== undefined) this.#value = this.#kept.then(fetchValue)
      else if (this.#spent) this.#value = Promise.reject(this.#gone())
      else {
        this.#value = new Promise(resolve => {
          this.#settle = resolve
        })
        plan(this)
      }
    }
    return this.#value
  }

  /** What it leads to, as an object that stays where it is. */
  keep(): Promise<unknown> {
    if (this.#kept === undefined) {
      if (this.#spent) this.#kept = Promise.reject(this.#gone())
      else if (this.#value !== undefined && this.#settle === undefined) this.#kept = this.#value
      else this.#kept = this.#send(true)
    }
    return this.#kept
  }

  /** Gives back what it leads to, if that is held here. */
  release(): void {
    const isHeld = this.#kept !== undefined || (this.#isCall && this.#uses === 0 && !this.#spent)
    if (isHeld) this.keep().then(giveBack, () => {})
  }

  /** Sends it now, unless it is a part of what goes on from it. */
  run(): void {
    const settle = this.#settle
    if (settle === undefined) {
      if (this.#uses === 0 && this.#value === undefined && !this.#spent) this.keep()
      return
    }
    const shared = this.#uses > 0 || this.#kept !== undefined || this.#spent
    const result = shared ? this.keep().then(fetchValue) : this.#send(false)
    this.#settle = undefined
    settle(result)
  }

  /** Iterates over what it leads to. */
  open(options: PortOptions | undefined, on: StreamEvents): StreamHandle | Promise<StreamHandle> {
    const start = (message: Message) => {
      try {
        return this.port.stream(targetOf(message), ...argumentsOf(message, { ...lent, ...options }), on)
      } catch (error) {
        throw located(error, message.steps)
      }
    }
    if (this.#standsAlone()) {
      return this.keep().then(result => start({ subject: this.#referenceOf(result), steps: [] }))
    }
    const path = this.#path()
    this.#spent = true
    const message = this.#message(path)
    return message instanceof Promise ? message.then(start) : start(message)
  }

  /** Blocks until more steps have been performed on what it leads to. */
  sync(steps: readonly Step[]): unknown {
    const free = this.#uses === 0 && this.#value === undefined && this.#kept === undefined && !this.#spent
    const message = free && this.#message(this.#path())
    if (!message || message instanceof Promise) {
      throw new TypeError(`the result of ${this} is not here yet: await it first`)
    }
    this.#spent = true
    return this.port.callSync({ subject: message.subject, steps: [...message.steps, ...steps] }, [], lent)
  }

  /** As one would write it. */
  toString(): string {
    const { from, step } = this
    const start =
      from instanceof Access ? `${from}` : typeof from.subject === 'string' ? from.subject : 'remote'
    return step === undefined ? start : start + nameOf(step)
  }

  /** Whether it is evaluated by a message of its own, not as a part of another's. */
  #standsAlone(): boolean {
    return this.#uses > 1 || this.#kept !== undefined || this.#value !== undefined || this.#spent
  }

  /** The accesses from the last one that stands alone to this one; their results are used up. */
  #path(): Path {
    const path: Access[] = [this]
    let base = this.from
    while (base instanceof Access && !base.#standsAlone()) {
      path.push(base)
      base = base.from
    }
    path.reverse()
    let called = false
    for (const each of path) {
      called ||= each.step?.[0] === 'call'
      if (each !== this) each.#spent = called
    }
    return { base, accesses: path }
  }

  #send(keep: boolean): Promise<unknown> {
    const submit = (message: Message) =>
      this.port.call(targetOf(message), ...argumentsOf(message, keep ? { keep } : lent)).catch(error => {
        throw located(error, message.steps)
      })
    const message = this.#message(this.#path())
    return message instanceof Promise ? message.then(submit) : submit(message)
  }

  /** What to send; a promise when it takes results that are not known yet. */
  #message({ base, accesses }: Path): Message | Promise<Message> {
    if (base instanceof Access) return this.#gather({ base, accesses })
    const steps: Step[] = []
    for (const each of accesses) {
      if (each.#needs.length > 0) return this.#gather({ base, accesses })
      if (each.step !== undefined) steps.push(each.step)
    }
    return { subject: base.subject, steps }
  }

  async #gather({ base, accesses }: Path): Promise<Message> {
    const needed = accesses.flatMap(each => each.#needs)
    if (base instanceof Access) needed.push(base)
    const results = new Map<unknown, unknown>()
    await Promise.all(needed.map(async each => results.set(each, await each.keep())))
    const passed = (value: unknown) => {
      const access = accessOf(value)
      return access === undefined ? value : results.get(access)
    }
    const steps = accesses.flatMap(each => {
      if (each.step === undefined) return []
      return each.#needs.length === 0 ? [each.step] : [mapArguments(each.step, passed)]
    })
    return { subject: base instanceof Access ? base.#referenceOf(results.get(base)) : base.subject, steps }
  }

  #referenceOf(result: unknown): Reference {
    const reference = referenceOf(result)
    if (reference !== undefined) return reference
    throw new TypeError(
      `the result of ${this} has come here as a value; to go on from it there: const x = await keep(${this})`,
    )
  }

  #gone(): TypeError {
    return new TypeError(
      `the result of ${this} went into the chain that goes on from it; to use it twice: const x = await keep(${this})`,
    )
  }
}

type NamedArguments = Readonly<Record<string, unknown>>

/** The named arguments of a call that has none. */
export const unnamed: NamedArguments = Object.freeze({})

/** Tables are driven from afar, too, until `toTable` has them come here. */
export const lent: PortOptions = Object.freeze({ lend: true })

const none: readonly Access[] = []

function chainsOf(step: Step): readonly Access[] {
  let chains: Access[] | undefined
  const look = (value: unknown) => {
    const access = accessOf(value)
    if (access === undefined) return
    chains ??= []
    chains.push(access)
  }
  for (const value of step[1] as unknown[]) look(value)
  for (const value of Object.values(step[2] as NamedArguments)) look(value)
  return chains ?? none
}

function mapArguments(step: Step, map: (value: unknown) => unknown): Step {
  const args = (step[1] as unknown[]).map(map)
  if (step[2] === unnamed) return ['call', args, unnamed]
  const named = Object.entries(step[2] as NamedArguments).map(([name, value]) => [name, map(value)])
  return ['call', args, Object.fromEntries(named)]
}

/** Just calling an object takes no operation. */
function isCall({ subject, steps }: Message): boolean {
  return steps.length === 1 && typeof subject !== 'string' && steps[0]?.[0] === 'call'
}

function targetOf(message: Message): Reference | Message {
  return isCall(message) ? (message.subject as Reference) : message
}

function argumentsOf(message: Message, options: PortOptions | undefined): [readonly unknown[], PortOptions?] {
  if (!isCall(message)) return [[], options]
  const [, args, kwargs] = message.steps[0] as readonly [string, unknown[], NamedArguments]
  return kwargs === unnamed ? [args, options] : [args, { ...options, kwargs }]
}

function fetchValue(kept: unknown): unknown {
  const reference = referenceOf(kept)
  return reference === undefined ? kept : reference.port.call({ subject: reference, steps: [] }, [], lent)
}

function giveBack(kept: unknown): void {
  const reference = referenceOf(kept)
  reference?.port.giveBack(reference)
}

function nameOf([name, first]: Step): string {
  if (name === 'get') return `.${first}`
  return name === 'item' ? `[${first}]` : '(…)'
}

/** Has a value that can't travel located in the call that it is an argument of, rather than in the message. */
function located(error: unknown, steps: readonly Step[]): unknown {
  const found = error instanceof EncodeError && /^steps\[(\d+)\]\[([12])\](.*)$/s.exec(error.path)
  if (!found) return error
  const [, index, list, rest] = found
  const before = steps.slice(0, Number(index)).map(nameOf).join('')
  const path = `${list === '1' ? 'args' : 'kwargs'}${rest}`
  return new EncodeError(path, `of ${before}(…) ${error.message.slice(error.path.length + 1)}`)
}
