// The JavaScript player: node player.mjs caller|callee|source BUS main|worker [python|javascript]
//
// A caller plays every row in every mode with the callee, and prints one JSON line for each: its name, and what went
// wrong in which mode; then their number. A callee offers what a caller calls. A source only tells a caller in
// Python what JavaScript's values are.

import { once } from 'node:events'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { connect } from 'isthmus'
import { difference } from './same.mjs'
import rows from './table.mjs'

const nest = v => {
  for (let i = 0; i < 25; i++) v = [{ v }]
  return v
}
const unnest = v => {
  for (let i = 0; i < 25; i++) v = v[0].v
  return v
}

// --- the callee --------------------------------------------------------------------------------------------

const named = new Map(rows.map(row => [row.name, row]))
const kept = new Map()

/** What is wrong with what has arrived; true when nothing is. */
async function check(name, v) {
  const row = named.get(name)
  if (row.lent) return v === row.js || (await row.seen(v)) || `JavaScript can't use ${typeof v}`
  const found = difference(v, row.back)
  return found === null || ('js' in row && difference(v, row.js) === null) || found
}

const original = name => (named.get(name).make ? named.get(name).back : named.get(name).js)

const offered = {
  original,
  check,
  check_nested: (name, v) => check(name, unnest(v)),
  echo: v => v,
  give: original,
  give_nested: name => nest(original(name)),
  *give_twice(name) {
    yield original(name)
    yield original(name)
  },
  apply: (f, v) => f(v),
  restream: async function* (values) {
    yield* values
  },
  keep: (name, v) => void kept.set(name, v),
  check_kept: name => check(name, kept.get(name)),
  take_kept: name => {
    const v = kept.get(name)
    kept.delete(name)
    return v
  },
}

async function offer(bus, names) {
  const peer = await connect(bus)
  for (const name of names) peer.export(name, offered[name])
  return peer
}

// --- the caller --------------------------------------------------------------------------------------------

const taken = async stream => {
  const all = []
  for await (const v of stream) all.push(v)
  return all
}

// each: what the callee saw, and pairs of what was sent and what came back
const valueModes = {
  call: async (peer, { name, js }, again) => [
    await peer.call('check', [name, again.js]),
    [js, await peer.call('echo', [js])],
  ],
  callSync: (peer, { name, js }, again) => [
    peer.callSync('check', [name, again.js]),
    [js, peer.callSync('echo', [js])],
  ],
  callMany: async (peer, { name, js }, again) => {
    const seen = await peer.callMany('check', [
      [name, again.js],
      [name, again.js],
    ])
    const back = await peer.callMany('echo', [[js], [js]])
    return [seen.find(each => each !== true) ?? true, [js, back[0]], [js, back[1]]]
  },
  post: async (peer, { name, js }) => {
    peer.post('keep', [name, js])
    return [await peer.call('check_kept', [name]), [js, await peer.call('take_kept', [name])]]
  },
  kwargs: async (peer, { name, js }, again) => [
    await peer.call('check', [], { kwargs: { name, v: again.js } }),
    [js, await peer.call('echo', [], { kwargs: { v: js } })],
  ],
  exports: async (peer, { name, js }, again) => [
    await peer.exports.check(name, again.js),
    [js, await peer.exports.echo(js)],
  ],
  nested: async (peer, { name, js }, again) => [
    await peer.call('check_nested', [name, nest(again.js)]),
    [js, unnest(await peer.call('echo', [nest(js)]))],
  ],
  'callSync, nested': (peer, { name, js }, again) => [
    peer.callSync('check_nested', [name, nest(again.js)]),
    [js, unnest(peer.callSync('echo', [nest(js)]))],
  ],
  callback: async (peer, { js }) => {
    const seen = []
    const back = await peer.call('apply', [v => seen.push(v) && v, js])
    return [true, [js, seen[0]], [js, back]]
  },
  stream: async (peer, { js }) => {
    const [one, two] = await taken(peer.stream('restream', [[js, js].values()]))
    return [true, [js, one], [js, two]]
  },
}

// each: what was given
const resultModes = {
  call: async (peer, { name }) => [await peer.call('give', [name])],
  callSync: (peer, { name }) => [peer.callSync('give', [name])],
  callMany: (peer, { name }) => peer.callMany('give', [[name], [name]]),
  kwargs: async (peer, { name }) => [await peer.call('give', [], { kwargs: { name } })],
  exports: async (peer, { name }) => [await peer.exports.give(name)],
  nested: async (peer, { name }) => [unnest(await peer.call('give_nested', [name]))],
  'callSync, nested': (peer, { name }) => [unnest(peer.callSync('give_nested', [name]))],
  stream: (peer, { name }) => taken(peer.stream('give_twice', [name])),
}

const isPlayed = (row, mode, callee) =>
  !(row.blocks === false && mode.startsWith('callSync')) &&
  !(row.deepest && mode.endsWith('nested')) &&
  !(callee === 'javascript' && (mode === 'kwargs' || row.make))

async function playValue(peer, row, play) {
  const [seen, ...journeys] = await play(peer, { ...row }, row)
  const failures = seen === true ? [] : [seen]
  for (const [sent, back] of journeys) {
    if (row.lent) {
      if (back !== sent) failures.push('what came home is another object')
      continue
    }
    const found = difference(back, row.back)
    if (found && difference(back, row.js)) failures.push(found)
  }
  return failures
}

async function playResult(peer, row, play) {
  const failures = []
  for (const v of await play(peer, row)) {
    if (row.lent) {
      if ((await peer.call('echo', [v])) !== v) failures.push('what came back is another object')
      const seen = await peer.call('check', [row.name, v])
      if (seen !== true) failures.push(seen)
      const [fresh] = await play(peer, row)
      if (!(await row.seen(fresh))) failures.push("JavaScript can't use it")
    } else {
      const found = difference(v, row.back)
      if (found) failures.push(found)
    }
  }
  return failures
}

async function playRow(peer, row, callee) {
  const failures = []
  const playIt = row.make ? playResult : playValue
  for (const [mode, play] of Object.entries(row.make ? resultModes : valueModes)) {
    if (!isPlayed(row, mode, callee)) continue
    try {
      for (const failure of await playIt(peer, row, play)) failures.push(`${mode}: ${failure}`)
    } catch (error) {
      failures.push(`${mode}: ${error.stack ?? error}`)
    }
  }
  return { name: row.name, failures }
}

async function play(bus, callee, report) {
  const peer = await connect(bus)
  const played = rows.filter(row => isPlayed(row, 'call', callee))
  for (const row of played) report(await playRow(peer, row, callee))
  await peer.close()
  report({ rows: played.length })
}

// --- both --------------------------------------------------------------------------------------------------

const roles = {
  caller: ({ bus, callee }, report) => play(bus, callee, report),
  callee: async ({ bus }, report) => {
    await offer(bus, Object.keys(offered))
    report({ ready: true })
  },
  source: async ({ bus }, report) => {
    await offer(bus, ['original'])
    report({ ready: true })
  },
}

const print = message => process.stdout.write(`${JSON.stringify(message)}\n`)
if (!isMainThread) {
  await roles[workerData.role](workerData, message => parentPort.postMessage(message))
} else {
  const [role, bus, place, callee] = process.argv.slice(2)
  const task = { role, bus, callee }
  if (place === 'worker') {
    const worker = new Worker(new URL(import.meta.url), { workerData: task }).on('message', print)
    if (role === 'caller') await once(worker, 'exit')
  } else {
    await roles[role](task, print)
  }
  if (role !== 'caller') {
    process.stdin.on('end', () => process.exit()).resume()
  }
}
