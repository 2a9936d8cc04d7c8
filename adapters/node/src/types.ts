// What a declaration of a host's exports says about calls. Nothing of this is there at run time.

import type { KeywordArguments } from './marks.js'

// biome-ignore-start lint/suspicious/noExplicitAny: any function, whatever it takes, is to match
type AnyFunction = (...args: any) => unknown
type AnyNamed = KeywordArguments<any, any>
// biome-ignore-end lint/suspicious/noExplicitAny: see above

/** The exports of a host of which nothing is declared. */
export type AnyExports = Record<string, AnyFunction>

/** The declared names, or any. */
export type NameOf<Exports> = keyof Exports & string

/** Any name where nothing is declared, so that a call may say what it results in: `py.call<number>('total', [x])`. */
export type UndeclaredName<Exports> = string extends keyof Exports ? string : never

type All<F> = F extends AnyFunction ? Parameters<F> : never

type WithoutNamed<Args extends readonly unknown[]> = number extends Args['length']
  ? Args
  : Args extends readonly [infer First, ...infer Rest]
    ? [First] extends [AnyNamed]
      ? []
      : [First, ...WithoutNamed<Rest>]
    : Args extends readonly [(infer First)?, ...infer Rest]
      ? [First] extends [AnyNamed | undefined]
        ? []
        : [First?, ...WithoutNamed<Rest>]
      : []

type NamedIn<Args extends readonly unknown[]> =
  Required<Args> extends readonly [...unknown[], infer Last]
    ? Last extends KeywordArguments<infer Values, PropertyKey>
      ? Values
      : never
    : never

type LastIsGiven<Args extends readonly unknown[]> = Args extends readonly [...unknown[], infer Last]
  ? [Last] extends [AnyNamed]
    ? true
    : false
  : false

/** The positional arguments of an export. */
export type ArgumentsOf<F> = Readonly<WithoutNamed<All<F>>>

/** The named arguments of an export. */
export type NamedOf<F> = [NamedIn<All<F>>] extends [never]
  ? Readonly<Record<string, never>>
  : Readonly<NamedIn<All<F>>>

/** What an export results in. */
export type ResultOf<F> = F extends (...args: never) => infer Result ? Awaited<Result> : never

/** The items of an export that is a generator, or gives anything else that can be iterated over. */
export type ItemOf<F> =
  ResultOf<F> extends AsyncIterable<infer Item>
    ? Item
    : ResultOf<F> extends Iterable<infer Item>
      ? Item
      : unknown

/** The arguments of a call and its options, of which those may be left out that need not be given. */
export type CallArguments<F, Options> =
  LastIsGiven<All<F>> extends true
    ? [args: ArgumentsOf<F>, options: WithNamed<F, Options> & { readonly kwargs: NamedOf<F> }]
    : [] extends ArgumentsOf<F>
      ? [args?: ArgumentsOf<F>, options?: WithNamed<F, Options>]
      : [args: ArgumentsOf<F>, options?: WithNamed<F, Options>]

/** The options of a call, with the named arguments that are declared. */
export type WithNamed<F, Options> = Omit<Options, 'kwargs'> & { readonly kwargs?: NamedOf<F> }

/** The declared exports as functions. */
export type FunctionsOf<Exports> = {
  readonly [Name in keyof Exports]: Exports[Name] extends AnyFunction
    ? (...args: Parameters<Exports[Name]>) => Promise<ResultOf<Exports[Name]>>
    : never
}
