/**
 * Calls Python from JavaScript over shared memory.
 *
 * @packageDocumentation
 */

export { Moved, move } from './arrays.js'
export { Bus, type CallManyOptions, type CallOptions, type ExportedFunction, type Stats } from './bus.js'
export { type ConnectOptions, connect } from './connect.js'
export type { DType, TypedArray, TypedArrayConstructor } from './dtypes.js'
export { KeywordArguments, kwargs } from './encode.js'
export {
  BusFullError,
  ConnectError,
  EncodeError,
  type ErrorCode,
  HostLostError,
  IsthmusError,
  NotExportedError,
  PythonError,
  type PythonErrorFields,
  TimeoutError,
} from './errors.js'
export { release } from './leases.js'
export type { Counters } from './native.js'
export { type Element, type Layout, NDArray, type Nested, type Range } from './ndarray.js'
export { type SpawnOptions, spawn } from './spawn.js'
