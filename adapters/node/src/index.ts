/**
 * Calls Python from JavaScript over shared memory.
 *
 * @packageDocumentation
 */

export { Moved, move } from './arrays.js'
export type { ArrowTable } from './arrow.js'
export {
  Bus,
  type CallManyOptions,
  type CallOptions,
  type ExportedFunction,
  type PostOptions,
  type Stats,
} from './bus.js'
export { type ConnectOptions, connect } from './connect.js'
export { type Call, current } from './context.js'
export type { DType, TypedArray, TypedArrayConstructor } from './dtypes.js'
export {
  BusFullError,
  ConnectError,
  EncodeError,
  type ErrorCode,
  HostLostError,
  IsthmusError,
  JsError,
  NotExportedError,
  PythonError,
  type PythonErrorFields,
  TimeoutError,
} from './errors.js'
export { release } from './leases.js'
export { KeywordArguments, type Kwargs, kwargs, Slice, slice, Tuple, tuple } from './marks.js'
export type { Counters, MemoryStats } from './native.js'
export { type Element, type Layout, NDArray, type Nested, type Range } from './ndarray.js'
export { Message, Queue, type QueueOptions, type QueueStats } from './queues.js'
export { type Chain, enter, isRemote, keep, type Remote, toTable, withContext } from './remote.js'
export { type SpawnOptions, spawn } from './spawn.js'
export type { Incoming } from './streams.js'
export { type SubscribeOptions, Subscription, Topic } from './topics.js'
export type { AnyExports } from './types.js'
export type { WaitOptions } from './waits.js'
