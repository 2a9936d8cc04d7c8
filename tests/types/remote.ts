// Remote objects and streams, to a user's editor: this file is only compiled.

import {
  type Bus,
  type Chain,
  enter,
  isRemote,
  keep,
  kwargs,
  type Remote,
  slice,
  tuple,
  withContext,
} from 'isthmus'

interface App {
  rows(path: string): AsyncIterable<{ readonly name: string }>
  numbers(n: number): Iterable<number>
}

export async function objects(py: Bus, unknown: unknown): Promise<unknown> {
  const np: Remote = await py.import('numpy')
  const chain: Chain = np.arange(15).reshape(3, 5)
  const a: Remote = await keep(chain)
  const text = `${a} ${a[0]} ${await a[-1]}`
  const row = await a.__getitem__(tuple(slice(1), 0))
  const total: number = await a.sum(kwargs({ axis: null })).catch(() => 0)
  for await (const each of a) if (each) break
  const length: number = await withContext(py.import('io').open(text), async file => file.read().length)
  await using file = await enter(np.load('x'))
  if (isRemote(unknown)) unknown.release()
  // @ts-expect-error: assigned by __setattr__
  a.shape = [15]
  return [row, total, length, file]
}

export async function streams(py: Bus<App>, untyped: Bus, signal: AbortSignal): Promise<string[]> {
  const names: string[] = []
  for await (const row of py.stream('rows', ['a.csv'], { signal, timeout: 5 })) names.push(row.name)
  for await (const n of py.stream('numbers', [3])) names.push(n.toFixed())
  for await (const n of untyped.stream<number>('anything')) names.push(n.toFixed())
  for await (const x of untyped.stream('anything')) names.push(String(x))
  // @ts-expect-error: a path is a string
  py.stream('rows', [1])
  // @ts-expect-error: no such export
  py.stream('row', ['a.csv'])
  return names
}
