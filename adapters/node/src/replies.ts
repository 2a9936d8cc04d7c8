// How a call of another peer ends: its result, its items, or what went wrong.

import { type Serving, serve } from './context.js'
import type { Encoder } from './encode.js'
import { errorOf } from './errors.js'
import { describeFailure } from './failures.js'
import { end } from './leases.js'
import { constants, type NativeConnection } from './native.js'
import { Lent } from './objects.js'
import { closest } from './similar.js'
import { type Outlet, pump } from './streams.js'

const { kinds, statuses, words, frames } = constants
const OK = statuses.ok

/** A call is cancelled by its caller, or because its time has run out. */
function howCancelled(call: Serving): number {
  const isLate = call.deadline !== undefined && performance.now() >= call.deadline
  return isLate ? statuses.timed_out : statuses.cancelled
}

export class Replies {
  /** Calls that have begun and are not answered yet. */
  readonly running = new Set<Serving>()
  readonly #blocked: readonly unknown[]
  readonly #native: NativeConnection
  readonly #words: Int32Array
  readonly #encoder: Encoder

  /** `blocked`: the calls that this isolate is blocked in. */
  constructor(native: NativeConnection, control: Int32Array, encoder: Encoder, blocked: readonly unknown[]) {
    this.#blocked = blocked
    this.#native = native
    this.#words = control
    this.#encoder = encoder
  }

  finish(call: Serving, result: unknown): void {
    if (call.isPost || call.state === 'done') {
      this.done(call)
      return
    }
    if ((call.flags & frames.streams) !== 0) {
      this.#stream(call, result)
      return
    }
    if (call.cancelled) {
      this.refuse(call, howCancelled(call))
      return
    }
    try {
      const keeps = (call.flags & frames.keeps) !== 0
      this.#encoder.stageResult(keeps && typeof result !== 'function' ? new Lent(result, 0) : result)
    } catch (error) {
      this.fail(call, error)
      return
    }
    this.#answer(call, kinds.reply, OK)
  }

  fail(call: Serving, reason: unknown): void {
    if (call.isPost) {
      if (!call.cancelled) {
        const { type, message } = describeFailure(reason, false)
        process.emitWarning(`'${call.name}' was posted, and failed: ${type}: ${message}`, 'IsthmusWarning')
      }
      this.done(call)
      return
    }
    if (call.cancelled) {
      this.refuse(call, howCancelled(call))
      return
    }
    this.#answerFailure(call, reason)
  }

  #answerFailure(call: Serving, reason: unknown): void {
    const failure = describeFailure(reason, call.returnsErrors)
    try {
      this.#encoder.stageResult(failure)
    } catch {
      this.#encoder.stageResult({ ...failure, args: [], cause: null, origin: null })
    }
    this.#answer(call, kinds.error, OK)
  }

  /** An outcome without words of the callee's own. */
  refuse(call: Serving, status: number): void {
    if (call.isPost) {
      this.done(call)
      return
    }
    this.#encoder.stage([], undefined, undefined)
    this.#answer(call, kinds.error, status)
  }

  notExported(call: Serving, names: Iterable<string>): void {
    if (call.isPost) {
      process.emitWarning(`'${call.name}' was posted, and is not exported`, 'IsthmusWarning')
      return
    }
    this.#encoder.stageResult({ name: call.name, close: closest(call.name, names) })
    this.#answer(call, kinds.error, statuses.not_exported)
  }

  done(call: Serving): void {
    call.end()
    this.running.delete(call)
  }

  /** Sends what is staged as the end of a call. */
  #answer(call: Serving, kind: number, status: number): void {
    this.done(call)
    this.#send(call, kind, status)
  }

  #send(call: Serving, kind: number, status: number, items = 0): void {
    const control = this.#words
    const { moved } = this.#encoder
    control[words.kind] = kind
    control[words.answer] = status
    control[words.peer] = call.peer
    control[words.peerGeneration] = call.peerGeneration
    control[words.idLow] = call.idLow
    control[words.idHigh] = call.idHigh
    control[words.target] = call.target
    control[words.flags] = this.#encoder.references
    control[words.number] = items
    this.#native.answer()
    const wasSent = control[words.status] === OK
    this.#encoder.done(wasSent)
    if (wasSent && moved !== undefined) for (const each of moved) end(each.array, 'moved')
  }

  #stream(call: Serving, source: unknown): void {
    const outlet: Outlet = {
      items: values => {
        for (let next = 0; next < values.length && call.state !== 'done'; ) {
          const first = next
          next = this.#encoder.stageItems(values, first)
          this.#send(call, kinds.item, OK, next - first)
          const status = this.#words[words.status] as number
          if (status !== OK) throw errorOf(status, `items of '${call.name}'`)
        }
      },
      end: () => {
        if (call.state === 'done') return
        if (call.cancelled) {
          this.refuse(call, howCancelled(call))
          return
        }
        this.#encoder.stageResult(null)
        this.#answer(call, kinds.reply, OK)
      },
      fail: reason => {
        // Also one that was cancelled tells what went wrong while it was closed.
        if (call.state !== 'done') this.#answerFailure(call, reason)
      },
      onCredit: () => {},
      onCancel: () => {},
      isBlocked: () => this.#blocked.length > 0,
    }
    call.outlet = outlet
    serve(call, () => pump(source, call.credit, outlet))
    if (call.cancelled) outlet.onCancel()
  }
}
