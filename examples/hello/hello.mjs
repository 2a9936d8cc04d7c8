import { kwargs, PythonError, spawn } from 'isthmus'

const py = await spawn(`${import.meta.dirname}/app.py`)

console.log(await py.call('greet', ['JavaScript']))

const x = py.alloc(Float64Array, 6) // in memory that both languages see: Python gets it without a copy
x.set([0, 0, 9, 0, 0, 3])
console.log(await py.call('total', [x]))
console.log(await py.exports.smooth(x, kwargs({ width: 3 }))) // and so does JavaScript get the result

const pairs = Array.from({ length: 1000 }, (_, i) => new Float64Array([i, 1]))
const totals = await Promise.all(pairs.map(pair => py.call('total', [pair]))) // a thousand calls in flight
console.log(totals.length, totals.at(-1))

try {
  await py.call('total', ['not an array'])
} catch (error) {
  console.log(error instanceof PythonError, error.type, error.message)
}

await py.close()
