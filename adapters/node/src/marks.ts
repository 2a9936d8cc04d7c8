// Values that mark how an argument is meant, where JavaScript has no notation of its own.

/** The named arguments of a call; see `kwargs`. */
export class KeywordArguments<
  Values extends object = Readonly<Record<string, unknown>>,
  Names extends PropertyKey = keyof Values,
> {
  /** Never there: for the compiler, which is to find names that were not declared. */
  declare readonly names?: Names
  // Tells it from everything else that has `values`.
  declare private readonly isNamed: true

  constructor(readonly values: Values) {}
}

/** Named arguments in a declaration: `fit(x: Float64Array, named?: Kwargs<{ epochs?: number }>): Model`. */
export type Kwargs<Values extends object> = KeywordArguments<Values, keyof Values>

/** Marks the last argument of `py.exports.fn(…)`, or of a remote object's call, as Python's named arguments. */
export function kwargs<Values extends object>(values: Values): Kwargs<Values> {
  return new KeywordArguments(values)
}

/** A Python `slice`; see the function of this name. */
export class Slice {
  constructor(
    readonly start: unknown,
    readonly stop: unknown,
    readonly step: unknown,
  ) {}
}

/** Python's `start:stop:step` in an index, where null or nothing is an omitted part: `a.__getitem__(slice(1, 4))`. */
export function slice(start: unknown = null, stop: unknown = null, step: unknown = null): Slice {
  return new Slice(start, stop, step)
}

/** A Python `tuple`; see the function of this name. */
export class Tuple {
  constructor(readonly items: readonly unknown[]) {}
}

/** A Python tuple, where a list would not do: an index of several dimensions, a key of a dict. */
export function tuple(...items: readonly unknown[]): Tuple {
  return new Tuple(items)
}
