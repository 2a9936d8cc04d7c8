// What remote objects and streams need of a connection, and the table of the objects that stand for others' objects.

/** One access of an operation: its name, then what it takes. */
export type Step = readonly [name: string, ...rest: readonly unknown[]]

/** Accesses that are performed one after the other, on an object or on a module of this name. */
export interface Operation {
  readonly subject: Reference | string
  readonly steps: readonly Step[]
}

/** What is called: an export, an object, or what the accesses of an operation lead to. */
export type Target = string | Reference | Operation

export interface PortOptions {
  readonly kwargs?: Readonly<Record<string, unknown>> | undefined
  readonly timeout?: number | undefined
  readonly signal?: AbortSignal | undefined
  /** What keeps calls on one worker: that they are this caller's, or a key. */
  readonly sticky?: string | boolean | undefined
  /** The result stays where it is, also if it is a value that could travel. */
  readonly keep?: boolean | undefined
  /** Tables in the result stay where they are. */
  readonly lend?: boolean | undefined
  /** Only values are sent: what would be a reference can't travel. */
  readonly values?: boolean | undefined
  /** It is no part of the call that is being served: it may outlive it, and has its own time. */
  readonly detached?: boolean | undefined
  /** How many items of a stream may be on their way from the start. */
  readonly credit?: number | undefined
}

/** What becomes of a stream: items, and in the end either `end` or `fail`, also after a cancel. */
export interface StreamEvents {
  /** Items are tuples with a message of some other peer: one that can't be read is `Unreadable`, and spares the others. */
  readonly areDeliveries?: boolean
  items(values: unknown[]): void
  end(): void
  fail(error: unknown): void
}

export interface StreamHandle {
  /** That many more items may be sent. */
  credit(more: number): void
  /** Has the other side close the stream; `end` or `fail` follows. */
  cancel(): void
  /** Whether nobody waits for items: then the event loop need not go on for them. */
  rest(isIdle: boolean): void
}

/** A connection, seen from an object that came over it. */
export interface Port {
  call(target: Target, args: readonly unknown[], options?: PortOptions): Promise<unknown>
  callSync(target: Target, args: readonly unknown[], options?: PortOptions): unknown
  stream(
    target: Target,
    args: readonly unknown[],
    options: PortOptions | undefined,
    on: StreamEvents,
  ): StreamHandle
  /** A call of which nothing is awaited. */
  post(name: string, args: readonly unknown[], options: PortOptions | undefined): void
  /** The object is not needed here any more; harmless a second time. */
  giveBack(reference: Reference): void
}

/** An object that stays with its owner, another peer. */
export class Reference {
  /** How often it was received: its owner keeps it until as many uses were given back. */
  uses = 0
  released = false

  constructor(
    readonly slot: number,
    readonly generation: number,
    readonly id: number,
    readonly flags: number,
    readonly port: Port,
  ) {}
}

/** Under this key, a proxy tells its reference. */
export const referenceKey = Symbol('reference')

/** What an object of this isolate stands for; undefined for all that are not proxies. */
export function referenceOf(value: unknown): Reference | undefined {
  if (value === null || (typeof value !== 'object' && typeof value !== 'function')) return undefined
  return (value as { [referenceKey]?: Reference })[referenceKey]
}
