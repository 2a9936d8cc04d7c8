// Plays every row in every mode against a bus: node play.mjs BUS main|worker
// Prints one JSON line for each row: its name, and what went wrong in which mode; then their number.

import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { connect } from 'isthmus'
import { difference } from './same.mjs'
import rows from './table.mjs'

const list = text => `[${text}, {'v': ${text}}]`

// each: what the row's value is told to Python with, and what Python saw and gave back
const valueModes = {
  call: async (py, { js, python }) => [await py.call('check', [js, python]), await py.call('echo', [js])],
  callSync: async (py, { js, python }) => [py.callSync('check', [js, python]), py.callSync('echo', [js])],
  callMany: async (py, { js, python }) => {
    const seen = await py.callMany('check', [
      [js, python],
      [js, python],
    ])
    const back = await py.callMany('echo', [[js], [js]])
    return [seen.every(each => each === true) || seen.join(), back[0], back[1]]
  },
  post: async (py, { name, js, python }) => {
    py.post('keep', [name, js])
    return [await py.call('check_kept', [name, python]), await py.call('take_kept', [name])]
  },
  kwargs: async (py, { js, python }) => [
    await py.call('check', [], { kwargs: { expression: python, v: js } }),
    await py.call('echo', [], { kwargs: { v: js } }),
  ],
  exports: async (py, { js, python }) => [await py.exports.check(js, python), await py.exports.echo(js)],
  nested: async (py, { js, python }) => {
    const [first, second] = await py.call('echo', [[js, { v: js }]])
    return [await py.call('check', [{ a: [js] }, `(lambda v: ${python})(v['a'][0])`]), first, second.v]
  },
}

const resultModes = {
  call: async (py, { make }) => [true, await py.call('make', [make])],
  callSync: (py, { make }) => [true, py.callSync('make', [make])],
  callMany: async (py, { make }) => [true, ...(await py.callMany('make', [[make], [make]]))],
  nested: async (py, { make }) => {
    const [first, second] = await py.call('make', [list(make)])
    return [true, first, second.v]
  },
}

async function playRow(py, row) {
  const failures = []
  for (const [mode, play] of Object.entries(row.make ? resultModes : valueModes)) {
    try {
      const [seen, ...backs] = await play(py, row)
      if (seen !== true) failures.push(`${mode}: ${seen}`)
      for (const back of backs) {
        const found = difference(back, row.back)
        if (found) failures.push(`${mode}: ${found}`)
      }
    } catch (error) {
      failures.push(`${mode}: ${error.stack ?? error}${error.traceback ?? ''}`)
    }
  }
  return { name: row.name, failures }
}

async function play(bus, report) {
  const py = await connect(bus)
  for (const row of rows) report(await playRow(py, row))
  await py.close()
  report({ rows: rows.length })
}

const report = played => process.stdout.write(`${JSON.stringify(played)}\n`)
const [bus, place] = isMainThread ? process.argv.slice(2) : [workerData]
if (!isMainThread) await play(bus, played => parentPort.postMessage(played))
else if (place === 'worker') new Worker(new URL(import.meta.url), { workerData: bus }).on('message', report)
else await play(bus, report)
