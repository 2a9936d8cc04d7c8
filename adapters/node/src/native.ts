// The addon as TypeScript sees it. Every number that both languages know comes from there.

import { join } from 'node:path'
import type { DType } from './dtypes.js'

/** A connection's functions. They take their numbers from the control block and put their results there. */
export interface NativeConnection {
  /** Sends what is staged: a call or a post, as the control block says. */
  submit(): void
  /** Sends the staged reply, error or items to the peer in the control block. */
  answer(): void
  /** Lets a stream send more items. */
  credit(): void
  /** Shows what was submitted now, in the middle of a batch. */
  flush(): void
  /** Has the event loop come back to this connection. */
  rouse(): void
  /** Shows the names of what this isolate exports. */
  publish(names: readonly string[]): void
  /** Gives uses of another peer's object back. */
  giveBack(): void
  /** Own objects to which nobody refers any more. */
  takeFree(): number[] | undefined
  /** What a peer calls itself; undefined when another one has its slot. */
  label(slot: number, generation: number): string | undefined
  /** What has become of the peer of a lost call, whose descriptor has the number. Part of a sentence. */
  fate(number: number): string | undefined
  /** The names that others show as their exports; undefined when the bus was left. */
  exports(): string[] | undefined
  /** Sends a call, waits until something has arrived, or the time is out, and drains. */
  callAndWait(): ArrayBuffer | undefined
  /** Waits until something has arrived, or the time is out, and drains. */
  wait(): ArrayBuffer | undefined
  /** Tells the callee that a call's answer is no longer wanted. */
  cancel(): void
  /** Copies what has arrived to the inbox; a large frame comes alone, in the buffer that is returned. */
  drain(): ArrayBuffer | undefined
  /** A number for the name of an export. */
  intern(name: string): number
  /** The next call goes where all calls with this key go. */
  stick(key: string): void
  /** Where values are staged from now on. */
  lend(cells: ArrayBuffer, heap: ArrayBuffer): void
  allocate(): void
  /** An allocation on another thread: [status, block, generation, offset]. Takes a view of the arena's first byte. */
  allocateAhead(arena: Uint8Array): Promise<[number, number, number, number]>
  stage(): void
  stageCopy(bytes: Uint8Array): void
  unstage(): void
  copyOut(): ArrayBuffer
  release(): void
  memory(): SharedArrayBuffer
  settled(): void
  tick(): void
  /** Has the garbage collector look for dropped arrays, where that is worth it. */
  nudge(): void
  delivered(): void
  /** Its status is `closed` once the bus has ended. */
  standing(): void
  /** Why the allocation that the control block tells of was refused. */
  shortage(): string
  stats(): [Counters, MemoryStats, Counters?] | undefined
  close(): void
}

/** Counters of one peer; see `Bus.stats`. */
export type Counters = Record<string, number>

/** Who has what of a bus's memory, in bytes; see `Bus.stats`. */
export interface MemoryStats {
  /** All that there is for arrays and large messages. */
  readonly bytes: number
  /** How much one peer may own. */
  readonly quota: number
  /** What nobody has taken. */
  readonly free: number
  /** The longest piece of it. */
  readonly longest: number
  /** What arrays and messages are in that anybody keeps. */
  readonly leased: number
  /** What peers have left that are gone, because others keep arrays in it. */
  readonly orphaned: number
  readonly peers: readonly {
    readonly name: string
    readonly pid: number
    /** What it has taken to allocate from. */
    readonly owned: number
    /** What it keeps, whoever has allocated it. */
    readonly leased: number
  }[]
}

interface Numbers<Name extends string> {
  readonly words: Record<WordName, number>
  readonly doubles: Record<'timeout' | 'offset' | 'bytes' | 'object', number>
  readonly fields: Record<FieldName, number>
  readonly kinds: Record<'call' | 'post' | 'reply' | 'error' | 'cancel' | 'item' | 'credit', number>
  readonly tags: Record<TagName, number>
  readonly dtypes: Record<Name, number>
  readonly statuses: Record<StatusName, number>
  readonly loops: Record<'in_flight' | 'always' | 'never', number>
  readonly references: Record<'callable' | 'iterable' | 'async' | 'exception', number>
  readonly frames: Record<'streams' | 'blocks' | 'keeps' | 'references' | 'lends', number>
  readonly targets: Record<'nameOnly' | 'onObject' | 'operation', number>
  readonly sticky: Record<'not' | 'byCaller', number>
  readonly peers: Record<'any' | 'gone' | 'most', number>
  readonly flags: Record<'leased' | 'fortran' | 'ascii' | 'moved' | 'kwargs' | 'strided' | 'typed', number>
  readonly sizes: Record<SizeName, number>
  readonly sentences: readonly string[]
}

type WordName =
  | 'status'
  | 'kind'
  | 'name'
  | 'slot'
  | 'firstCell'
  | 'cells'
  | 'firstHeap'
  | 'heapBytes'
  | 'firstPayload'
  | 'frames'
  | 'inFlight'
  | 'loop'
  | 'block'
  | 'generation'
  | 'target'
  | 'peer'
  | 'peerGeneration'
  | 'flags'
  | 'number'
  | 'idLow'
  | 'idHigh'
  | 'activityLow'
  | 'activityHigh'
  | 'answer'
  | 'queued'
  | 'exported'
  | 'serving'
  | 'selfSlot'
  | 'selfGeneration'
  | 'sticky'
  | 'uncleared'
type FieldName =
  | 'kind'
  | 'status'
  | 'slot'
  | 'cells'
  | 'cellCount'
  | 'heap'
  | 'payloads'
  | 'payloadCount'
  | 'peer'
  | 'peerGeneration'
  | 'flags'
  | 'number'
  | 'target'
  | 'name'
  | 'nameBytes'
  | 'idLow'
  | 'idHigh'
  | 'activityLow'
  | 'activityHigh'
  | 'nested'
  | 'timeLeft'
type TagName =
  | 'null'
  | 'boolean'
  | 'integer'
  | 'real'
  | 'bigint'
  | 'text'
  | 'bytes'
  | 'list'
  | 'object'
  | 'map'
  | 'set'
  | 'date'
  | 'array'
  | 'extent'
  | 'reference'
  | 'slice'
  | 'tuple'
  | 'table'
  | 'pickle'
type StatusName =
  | 'ok'
  | 'full'
  | 'too_large'
  | 'no_memory'
  | 'over_quota'
  | 'lost'
  | 'corrupt'
  | 'stale'
  | 'timed_out'
  | 'not_exported'
  | 'no_bus'
  | 'closed'
  | 'cancelled'
type SizeName =
  | 'control'
  | 'descriptorWords'
  | 'mostFrames'
  | 'inbox'
  | 'leasedFrom'
  | 'cell'
  | 'handle'
  | 'depth'
  | 'slots'

/** The native names of element types. */
export type NativeDType = Exclude<DType, 'bool'> | 'none' | 'boolean' | 'clamped8'

interface Buffers {
  readonly control: ArrayBuffer
  readonly descriptors: ArrayBuffer
  readonly inbox: ArrayBuffer
  readonly onWake: () => void
}

interface Addon {
  join(bus: string, label: string, milliseconds: number, buffers: Buffers): Promise<NativeConnection>
  readonly constants: Numbers<NativeDType>
  /** Whether this engine makes SharedArrayBuffers of memory that is given to it. */
  readonly wrapsMemory: boolean
}

const load = require('node-gyp-build') as (directory: string) => Addon

/** The addon, built for this platform. */
export const native: Addon = load(join(__dirname, '..'))
export const constants: Numbers<NativeDType> = native.constants
