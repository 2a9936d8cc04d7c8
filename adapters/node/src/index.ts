/**
 * Calls Python from JavaScript over shared memory.
 *
 * @packageDocumentation
 */

export {
  type DType,
  Moved,
  move,
  NDArray,
  release,
  type TypedArray,
  type TypedArrayConstructor,
} from './arrays.js'
export { Bus, type CallManyOptions, type CallOptions, type ExportedFunction, type Stats } from './bus.js'
export { type ConnectOptions, connect } from './connect.js'
export { type Call, current } from './context.js'
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
export { KeywordArguments, type Kwargs, kwargs, Slice, slice, Tuple, tuple } from './marks.js'
export type { Counters } from './native.js'
export { type Chain, enter, isRemote, keep, type Remote, withContext } from './remote.js'
export { type SpawnOptions, spawn } from './spawn.js'
export type { Incoming } from './streams.js'
export type { AnyExports } from './types.js'
