// What can go wrong. Each error has a stable `code`, which does not change when a message is reworded.

import { constants } from './native.js'

/** The `code` of every error that this package makes. */
export type ErrorCode =
  | 'ERR_ISTHMUS_PYTHON'
  | 'ERR_ISTHMUS_HOST_LOST'
  | 'ERR_ISTHMUS_TIMEOUT'
  | 'ERR_ISTHMUS_BUS_FULL'
  | 'ERR_ISTHMUS_ENCODE'
  | 'ERR_ISTHMUS_NOT_EXPORTED'
  | 'ERR_ISTHMUS_CONNECT'
  | 'ERR_ISTHMUS_CLOSED'
  | 'ERR_ISTHMUS_JS'
  | 'ERR_ISTHMUS_RELEASED'
  | 'ERR_ISTHMUS_CANCELLED'
  | 'ERR_ISTHMUS_NESTED'
  | 'ERR_ISTHMUS_NO_ARROW'
  | 'ERR_ISTHMUS_FAILED'

/** The base of all errors of this package. */
export class IsthmusError extends Error {
  /** Stable, for programs; the message is for people. */
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** What a `PythonError` is made from. */
export interface PythonErrorFields {
  readonly type: string
  readonly module: string
  readonly message: string
  readonly traceback: string
  readonly args: readonly unknown[]
  readonly cause?: Error | undefined
}

// The exceptions themselves, which stay with their owners, of errors that have come from there.
const origins = new WeakMap<object, object>()

/** The proxy of the exception that an error came from. */
export function originOf(error: unknown): object | undefined {
  return origins.get(error as object)
}

export function setOrigin(error: Error, origin: object): void {
  origins.set(error, origin)
}

/** To the stack, which is what is printed; a property that can be listed would be printed once more. */
function addTraceback(error: Error, traceback: string): void {
  Object.defineProperty(error, 'traceback', { value: traceback })
  if (traceback) error.stack = `${error.stack}\n\n${traceback.trimEnd()}`
}

/** An exception that Python raised. `cause` is the exception it was raised from, if any. */
export class PythonError extends IsthmusError {
  /** The name of the exception's class, like `ValueError`. */
  readonly type: string
  /** The module of the exception's class, like `builtins`. */
  readonly module: string
  /** The traceback as Python prints it. */
  declare readonly traceback: string
  /** The exception's arguments. */
  readonly args: readonly unknown[]

  constructor(fields: PythonErrorFields) {
    super('ERR_ISTHMUS_PYTHON', fields.message, fields.cause && { cause: fields.cause })
    this.type = fields.type
    this.module = fields.module
    this.args = fields.args
    addTraceback(this, fields.traceback)
  }
}

/** What another isolate's function threw. `cause` is the error's own cause, if any. */
export class JsError extends IsthmusError {
  /** The name of the error's class, like `RangeError`. */
  readonly type: string
  /** The stack where it was thrown. */
  declare readonly traceback: string

  constructor(fields: Pick<PythonErrorFields, 'type' | 'message' | 'traceback' | 'cause'>) {
    super('ERR_ISTHMUS_JS', fields.message, fields.cause && { cause: fields.cause })
    this.type = fields.type
    addTraceback(this, fields.traceback)
  }
}

/** The host ended, or was killed, before it had answered. */
export class HostLostError extends IsthmusError {
  /** @internal What the message says behind what was tried. */
  declare readonly why: string

  constructor(tried: string, why?: string) {
    super('ERR_ISTHMUS_HOST_LOST', why === undefined ? tried : `${tried} ${why}`)
    Object.defineProperty(this, 'why', { value: why ?? tried })
  }
}

/** The answer did not come in time. */
export class TimeoutError extends IsthmusError {
  constructor(message: string) {
    super('ERR_ISTHMUS_TIMEOUT', message)
  }
}

/** There is no room: the host does not keep up, or the bus has no memory left. */
export class BusFullError extends IsthmusError {
  constructor(message: string) {
    super('ERR_ISTHMUS_BUS_FULL', message)
  }
}

/** A value can't travel. The call was not made. */
export class EncodeError extends IsthmusError {
  /** Where the value sits, like `args[1].rows[3].handle`. */
  readonly path: string

  constructor(path: string, reason: string) {
    super('ERR_ISTHMUS_ENCODE', `${path} ${reason}`)
    this.path = path
  }
}

/** The host exports no function of this name. */
export class NotExportedError extends IsthmusError {
  /** The name that was called. */
  readonly exportName: string
  /** Exported names that resemble it. */
  readonly close: readonly string[]

  constructor(name: string, close: readonly string[]) {
    const hint = close.length > 0 ? `: did you mean ${close.map(each => `'${each}'`).join(' or ')}?` : ''
    super('ERR_ISTHMUS_NOT_EXPORTED', `no function '${name}' is exported${hint}`)
    this.exportName = name
    this.close = close
  }
}

/** No bus could be joined, or no host started. The message says what to run. */
export class ConnectError extends IsthmusError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_ISTHMUS_CONNECT', message, options)
  }
}

for (const each of [
  IsthmusError,
  PythonError,
  JsError,
  HostLostError,
  TimeoutError,
  BusFullError,
  EncodeError,
  NotExportedError,
  ConnectError,
]) {
  Object.defineProperty(each.prototype, 'name', { value: each.name, configurable: true, writable: true })
}

export function closedError(): IsthmusError {
  return new IsthmusError('ERR_ISTHMUS_CLOSED', 'the connection is closed')
}

/** For a promise that could only be settled after the call that its isolate is blocked in. */
export function blockedError(what: string, instead: string): IsthmusError {
  const why = "but its isolate is blocked in callSync and can't wait for it"
  return new IsthmusError('ERR_ISTHMUS_NESTED', `${what}, ${why}: ${instead}`)
}

const { statuses, sentences } = constants

/** The error for an outcome of the core, where `subject` is what was tried. */
export function errorOf(status: number, subject: string): IsthmusError {
  const sentence = `${subject}: ${sentences[status] ?? `outcome ${status}`}`
  switch (status) {
    case statuses.lost:
    case statuses.corrupt:
      return new HostLostError(sentence)
    case statuses.timed_out:
      return new TimeoutError(sentence)
    case statuses.closed:
      return closedError()
    case statuses.cancelled:
      return new IsthmusError('ERR_ISTHMUS_CANCELLED', sentence)
    case statuses.too_large:
      return new BusFullError(
        `${subject}: more than the memory of the whole bus; serve it with a larger memory`,
      )
    case statuses.full:
    case statuses.no_memory:
    case statuses.over_quota:
      return new BusFullError(sentence)
    case statuses.stale:
      return new IsthmusError('ERR_ISTHMUS_RELEASED', sentence)
    default:
      return new IsthmusError('ERR_ISTHMUS_FAILED', sentence)
  }
}
