// A host's exports, declared: what fits compiles, what does not is found. This file is only compiled.

import { type Bus, type Kwargs, kwargs, spawn } from 'isthmus'

interface Model {
  readonly weights: Float64Array
  readonly epochs: number
}

interface App {
  total(x: Float64Array): number
  fit(x: Float64Array, named?: Kwargs<{ epochs?: number; shape?: [number, number] }>): Model
  resize(image: Uint8Array, named: Kwargs<{ width: number; height: number }>): Uint8Array
  now(): Date
  greet(name: string, greeting?: string): string
  log(...lines: string[]): null
  rows(path: string, named?: Kwargs<{ skip?: number }>): AsyncIterable<{ name: string }>
  numbers(): Iterable<number>
}

const x = new Float64Array(3)

export async function fits(): Promise<unknown[]> {
  const py: Bus<App> = await spawn<App>('app.py')
  const total: number = await py.call('total', [x])
  const model: Model = await py.call('fit', [x], { kwargs: { epochs: 3 }, timeout: 5 })
  const same: Model = await py.exports.fit(x, kwargs({ epochs: 3, shape: [1, 2] }))
  const image: Uint8Array = await py.call('resize', [new Uint8Array(3)], { kwargs: { width: 1, height: 2 } })
  const now: Date = py.callSync('now')
  const greeting: string = await py.exports.greet('you')
  const sums: number[] = await py.callMany('total', [[x], [x]])
  const settled: (number | Error)[] = await py.callMany('total', [[x]], { settled: true })
  py.post('log', ['one', 'two'])
  await py.exports.log('one', 'two')
  return [total, model, same, image, now, greeting, sums, settled]
}

export async function doesNotFit(py: Bus<App>): Promise<void> {
  // @ts-expect-error: there is no such export
  await py.call('totl', [x])
  // @ts-expect-error: nor as a function
  await py.exports.totl(x)
  // @ts-expect-error: not an array of numbers
  await py.call('total', ['x'])
  // @ts-expect-error: an argument is missing
  await py.call('total')
  // @ts-expect-error: one too many
  await py.exports.total(x, x)
  // @ts-expect-error: no such named argument
  await py.call('fit', [x], { kwargs: { epoch: 3 } })
  // @ts-expect-error: nor beside one that there is
  await py.exports.fit(x, kwargs({ epochs: 3, eta: 1 }))
  // @ts-expect-error: of another type
  await py.exports.fit(x, kwargs({ epochs: 'three' }))
  // @ts-expect-error: named arguments that have to be given
  await py.call('resize', [new Uint8Array(3)])
  // @ts-expect-error: all of them
  await py.exports.resize(new Uint8Array(3), kwargs({ width: 1 }))
  // @ts-expect-error: no named arguments are declared
  await py.call('total', [x], { kwargs: { axis: 0 } })
  // @ts-expect-error: the result is a number
  const text: string = await py.call('total', [x])
  // @ts-expect-error: the same for many calls
  await py.callMany('total', [[x], [1]])
  // @ts-expect-error: and for one that is not answered
  py.post('log', [text, 1])
}
