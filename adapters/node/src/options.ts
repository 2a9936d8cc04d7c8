// Options by name. One that is misspelt is an error, and does not go unnoticed.

import { inspect } from 'node:util'
import { closest } from './similar.js'

/** The names of all options, as the compiler knows them: none is missing, none is too many. */
type Names<Options> = Readonly<Record<keyof Options & string, true>>

/** What checks the options of a function. Throws TypeError, which names the one that is not there. */
export function optionsOf<Options extends object>(
  of: string,
  names: Names<Options>,
): (options: Options | undefined) => void {
  const known = new Set<string>(Object.keys(names))
  return options => {
    if (options === undefined) return
    if (typeof options !== 'object' || options === null) {
      throw new TypeError(`the options of ${of} come as an object: { ${[...known][0]}: … }`)
    }
    for (const name in options) if (!known.has(name)) throw unknown(of, name, [...known])
  }
}

/** Throws RangeError for a number that is none of these, and TypeError for what is no number. */
export function checkWhole(
  name: string,
  value: unknown,
  least: number,
  most = Number.MAX_SAFE_INTEGER,
): void {
  if (Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most) return
  const range = most === Number.MAX_SAFE_INTEGER ? `from ${least} on` : `from ${least} to ${most}`
  const what = `${name} is a whole number ${range}, and not ${inspect(value)}`
  throw typeof value === 'number' ? new RangeError(what) : new TypeError(what)
}

/** Throws TypeError for what is none of the choices. */
export function checkChoice(name: string, value: unknown, choices: readonly unknown[]): void {
  if (choices.includes(value)) return
  const known = choices.map(each => inspect(each)).join(', ')
  throw new TypeError(`${name} is ${known.replace(/, ([^,]+)$/, ' or $1')}, and not ${inspect(value)}`)
}

function unknown(of: string, name: string, known: readonly string[]): TypeError {
  const close = closest(name, known)
  const quoted = (close.length > 0 ? close : known).map(each => `'${each}'`)
  const hint =
    close.length > 0
      ? `did you mean ${quoted.join(' or ')}?`
      : `it has ${quoted.join(', ').replace(/, ([^,]+)$/, ' and $1')}`
  return new TypeError(`${of} has no option '${name}': ${hint}`)
}
