// Errors on their way: what is told of one, and what becomes of it on the other side.

import { type IsthmusError, JsError, originOf, PythonError, setOrigin } from './errors.js'
import { constants } from './native.js'
import { Lent } from './objects.js'
import { referenceOf } from './port.js'

const { references } = constants
const deepest = 16
const through = '— through '

/** What an error frame holds. */
export interface Failure {
  readonly language: 'javascript' | 'python'
  readonly type: string
  readonly module: string
  readonly message: string
  readonly traceback: string
  readonly args: readonly unknown[]
  readonly cause: Failure | null
  readonly origin?: unknown
}

/** The error's own stack, without what came with it from elsewhere. */
function ownStack(error: PythonError | JsError): string {
  const stack = String(error.stack ?? '')
  const end = error.traceback ? stack.lastIndexOf(`\n\n${error.traceback.trimEnd()}`) : -1
  return end < 0 ? stack : stack.slice(0, end)
}

const unreadable: Failure = {
  language: 'javascript',
  type: 'Error',
  module: '',
  message: "an error that can't be read",
  traceback: '',
  args: [],
  cause: null,
}

/**
 * What is told of something that was thrown, whatever it is. With `lends`, also who it is, so that it may come home as itself.
 */
export function describeFailure(reason: unknown, lends: boolean, depth = 0): Failure {
  try {
    return described(reason, lends, depth)
  } catch {
    return unreadable
  }
}

function described(reason: unknown, lends: boolean, depth: number): Failure {
  if (reason instanceof PythonError || reason instanceof JsError) {
    const isPython = reason instanceof PythonError
    const origin = originOf(reason)
    return {
      language: isPython ? 'python' : 'javascript',
      type: reason.type,
      module: isPython ? reason.module : '',
      message: reason.message,
      traceback: `${reason.traceback.trimEnd()}\n\n${through}JavaScript —\n${ownStack(reason)}`,
      args: isPython ? reason.args : [],
      cause: causeOf(reason, depth),
      ...(origin !== undefined && referenceOf(origin)?.released === false && { origin }),
    }
  }
  const isError = reason instanceof Error
  const own = lends && typeof reason === 'object' && reason !== null
  return {
    language: 'javascript',
    type: isError ? String(reason.name) : typeof reason,
    module: '',
    message: isError ? String(reason.message) : textOf(reason),
    traceback: isError ? String(reason.stack ?? '') : '',
    args: [],
    cause: isError ? causeOf(reason, depth) : null,
    ...(own && { origin: new Lent(reason, references.exception) }),
  }
}

function textOf(value: unknown): string {
  try {
    return String(value)
  } catch {
    return `a value of type ${typeof value}`
  }
}

function causeOf(error: Error, depth: number): Failure | null {
  if (error.cause === undefined || error.cause === null || depth === deepest) return null
  return describeFailure(error.cause, false, depth + 1)
}

/**
 * Notes in the stack of an error that has come home where it has been meanwhile, the first time: what is told of it
 * later holds the note as well, and would double with each hop.
 */
function noteJourney(origin: unknown, traceback: string): void {
  const at = traceback.indexOf(through)
  if (at < 0 || !(origin instanceof Error) || String(origin.stack).includes(through)) return
  Reflect.set(origin, 'stack', `${origin.stack}\n\n${traceback.slice(at).trimEnd()}`)
}

/** The error that a failure becomes here; the very same one if it went out from here. */
export function errorFrom(failure: unknown): unknown {
  const { language, type, module, message, traceback, args, cause, origin } = failure as Partial<Failure>
  const isForeign = origin !== undefined && origin !== null && referenceOf(origin) !== undefined
  if (origin !== undefined && origin !== null && !isForeign) {
    noteJourney(origin, String(traceback ?? ''))
    return origin
  }
  const fields = {
    type: String(type),
    module: String(module ?? ''),
    message: String(message),
    traceback: String(traceback ?? ''),
    args: Array.isArray(args) ? args : [],
    cause: cause == null ? undefined : (errorFrom(cause) as Error),
  }
  const error: IsthmusError = language === 'javascript' ? new JsError(fields) : new PythonError(fields)
  if (isForeign) setOrigin(error, origin as object)
  return error
}
