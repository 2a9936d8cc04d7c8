// What a user's editor is to know: this file is only compiled.

import {
  type Bus,
  connect,
  EncodeError,
  HostLostError,
  IsthmusError,
  kwargs,
  type Message,
  move,
  NDArray,
  NotExportedError,
  PythonError,
  type Queue,
  type QueueStats,
  release,
  type Stats,
  type Subscription,
  spawn,
} from 'isthmus'

export async function tour(signal: AbortSignal): Promise<void> {
  await using py: Bus = await spawn(new URL('./app.py', 'file:///'), {
    python: 'python3',
    memory: '1GiB',
    workers: 2,
    workerKind: 'process',
  })
  const other: Bus = await connect(py.name, { timeout: 100, wait: 5000, sticky: true })
  const stage: Bus = await connect()
  const waiting: Bus = await connect(undefined, { wait: 5000 })

  const total: number = await py.call<number>('total', [new Float64Array(3)])
  const unknown: unknown = await py.call('total', [total], {
    kwargs: { a: 1 },
    timeout: 5,
    sticky: 'key',
    signal,
  })
  const sync: string = other.callSync<string>('name')
  other.post('log', [sync, unknown])
  const sums: number[] = await py.callMany<number>('add', [[1, 2]])
  const settled: (number | Error)[] = await py.callMany<number>('add', [[1, 2]], { settled: true })
  const answer: unknown = await py.exports.fit?.(sums, settled, kwargs({ epochs: 3 }))

  const x: Float32Array = py.alloc(Float32Array, 10)
  const big: BigInt64Array = py.alloc(BigInt64Array, 10)
  const grid = new NDArray(x, [2, 5])
  const row: Float32Array = grid.data
  await py.call('fill', [move(grid), move(big), row, answer])
  const given: boolean = release(grid)
  const stats: Stats = await py.stats()
  const free: number = stats.memory.free
  const shaped: NDArray<Float32Array> = py.alloc(Float32Array, [2, 3])
  const complex: NDArray = py.alloc('complex128', [2, 3])
  const dirty: Float32Array = py.allocUnsafe(Float32Array, 10)
  const dirtyShaped: NDArray<Float32Array> = py.allocUnsafe(Float32Array, [2, 3])
  const later: Float64Array = await py.allocAsync(Float64Array, 1 << 20)
  const calls: number | undefined = stats.host?.calls
  // @ts-expect-error: no option that is not there
  await py.call('total', [x], { timout: 5 })
  py.ref().unref()
  for (const each of [other, stage, waiting]) await each.close()
  return void [given, calls, free, shaped, complex, dirty, dirtyShaped, later]
}

export async function channels(py: Bus, signal: AbortSignal): Promise<number> {
  await using q: Queue<{ frame: Uint8Array }> = py.queue<{ frame: Uint8Array }>('frames', {
    depth: 4,
    prefetch: 2,
    deliveries: 3,
  })
  await q.put({ frame: new Uint8Array(3) }, { timeout: 5, signal })
  const message: Message<{ frame: Uint8Array }> = await q.get({ timeout: 5, signal })
  const length: number = message.value.frame.length + message.deliveries
  q.ack(message)
  for await (const each of q) each.reject()
  const dead: Queue<{ frame: Uint8Array }> = q.dead
  const stats: QueueStats = await dead.stats()
  const ticks = py.topic<number>('ticks')
  await ticks.publish(1, { timeout: 5 })
  await using subscription: Subscription<number> = ticks.subscribe({ onFull: 'drop-oldest', depth: 8 })
  await subscription.ready
  for await (const tick of subscription) return tick + subscription.dropped
  return length + stats.waiting + stats.late
}

export function sort(error: unknown): string {
  if (error instanceof PythonError) return `${error.type}: ${error.message}\n${error.traceback}`
  if (error instanceof EncodeError) return error.path
  if (error instanceof NotExportedError) return error.close.join()
  if (error instanceof HostLostError || error instanceof IsthmusError) return error.code
  // @ts-expect-error: no code that is not there
  return (error as IsthmusError).code === 'ERR_ISTHMUS_NOTHING' ? '' : ''
}
