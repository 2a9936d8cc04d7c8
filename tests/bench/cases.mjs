// What is measured, given a peer's adapter. Each case resolves to { metric: [value, unit] }.

import { once } from 'node:events'
import { setTimeout } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { flood } from './flood.mjs'
import { inference } from './inference.mjs'

const kB = 1024
const MB = 1024 * kB
const GB = 1024 * MB

export const cases = {
  sync,
  await: oneAtATime,
  'inflight-1000': inFlight,
  'array-1MB': array(MB),
  'array-64MB': array(64 * MB),
  'handoff-1kB': handOff(kB),
  'handoff-1MB': handOff(MB),
  'handoff-64MB': handOff(64 * MB),
  'handoff-1GB': handOff(GB),
  'double-64MB': doubled(64 * MB),
  'copied-64MB': copied(64 * MB),
  'async-10000': sleepers,
  'stream-1M': millionItems,
  idle: null, // measured from outside, on all peers at once
  'workers-4': workers,
  'workers-py-2': pythonWorkers('process'),
  'workers-py-interpreter-2': pythonWorkers('interpreter'),
  'flood-30': flood,
  inference,
  'pipeline-1MB': pipeline,
}

async function sync(peer, { ms }) {
  callMany(peer, ms / 4)
  const before = await counters(peer)
  const times = callMany(peer, ms)
  return { ...quantiles(times), ...perCall(before, await counters(peer), times.length) }
}

function callMany({ addSync }, ms) {
  const times = []
  const end = performance.now() + ms
  for (let now = performance.now(); now < end; ) {
    const sum = addSync(1, 2)
    const after = performance.now()
    times.push(after - now)
    now = after
    if (sum !== 3) throw wrongSum(sum)
  }
  return times
}

async function oneAtATime(peer, { ms }) {
  await awaitMany(peer, ms / 4)
  const before = await counters(peer)
  const times = await awaitMany(peer, ms)
  return { ...quantiles(times), ...perCall(before, await counters(peer), times.length) }
}

async function awaitMany({ add }, ms) {
  const times = []
  const end = performance.now() + ms
  for (let now = performance.now(); now < end; ) {
    const sum = await add(1, 2)
    const after = performance.now()
    times.push(after - now)
    now = after
    if (sum !== 3) throw wrongSum(sum)
  }
  return times
}

async function inFlight(peer, { ms }) {
  await lanes(peer, 1000, ms / 4)
  const before = await counters(peer)
  const { calls, seconds, all } = await lanes(peer, 1000, ms)
  return { calls_per_s: [calls / seconds, '1/s'], ...perCall(before, await counters(peer), all) }
}

/** Keeps `width` calls in flight for `ms`: so many lanes, each awaiting its own call in a loop. The clock is read every so many calls. */
export async function lanes({ add }, width, ms, every = 256) {
  let calls = 0
  let done = false
  let inTime = 0
  const begin = performance.now()
  let now = begin

  const lane = async () => {
    while (!done) {
      const sum = await add(1, 2)
      if (sum !== 3) throw wrongSum(sum)
      calls++
      if (calls % every === 0 && !done) {
        now = performance.now()
        done = now - begin >= ms
        if (done) inTime = calls
      }
    }
  }

  await Promise.all(Array.from({ length: width }, lane))
  return { calls: inTime, seconds: (now - begin) / 1000, all: calls }
}

function array(bytes) {
  return async (peer, { ms }) => {
    const x = filled(peer, bytes)
    const total = x.reduce((sum, value) => sum + value, 0)
    const last = x.length - 1
    return timed(peer, ms, async () => {
      const [sum, plusOne] = await peer.sumPlusOne(x)
      if (
        sum !== total ||
        plusOne.length !== x.length ||
        plusOne[0] !== x[0] + 1 ||
        plusOne[last] !== x[last] + 1
      ) {
        throw new Error(
          `the array came back wrong: sum ${sum} instead of ${total}, ${plusOne.length} elements`,
        )
      }
      peer.release?.(plusOne)
    }).finally(() => peer.release?.(x))
  }
}

function handOff(bytes) {
  return async (peer, { ms }) => {
    const x = filled(peer, bytes)
    return timed(peer, ms, async () => {
      const y = await peer.same(x)
      if (y.length !== x.length || y[7] !== x[7])
        throw new Error(`the array came back wrong: ${y.length} elements`)
      peer.release(y)
    }).finally(() => peer.release(x))
  }
}

/** What numpy makes of an array, there and back; and how many times what the operation takes alone that is. */
function doubled(bytes) {
  return async (peer, { ms }) => {
    const x = filled(peer, bytes)
    try {
      const found = await timed(peer, ms, async () => {
        const y = await peer.double(x)
        if (y.length !== x.length || y[7] !== 2 * x[7]) throw new Error(`the array came back wrong: ${y[7]}`)
        peer.release(y)
      })
      const alone = await peer.doubleAlone(x, ms / 1000)
      return { ...found, of_numpy_alone: [found.p50_us[0] / alone, '1'] }
    } finally {
      peer.release(x)
    }
  }
}

/** An array of JavaScript's own memory, which is copied into the bus; and the part of memcpy's bandwidth that comes to. */
function copied(bytes) {
  return async (peer, { ms }) => {
    const x = new Float64Array(bytes / 8).fill(1)
    const y = new Float64Array(bytes / 8).fill(2)
    const found = await timed(peer, ms, async () => {
      if ((await peer.length(x)) !== x.length) throw new Error('the array came wrong')
    })
    const { p50_us } = await timed({}, ms, () => y.set(x))
    return { ...found, of_memcpy: [p50_us[0] / found.p50_us[0], '1'] }
  }
}

/** Ten thousand calls of a coroutine that sleeps for 0.1 s, all in flight at once. */
async function sleepers(peer) {
  const calls = 10_000
  const round = async () => {
    const begin = performance.now()
    const slept = await Promise.all(Array.from({ length: calls }, () => peer.nap(0.1)))
    const took = performance.now() - begin
    if (slept.some(each => each !== 0.1)) throw new Error('a call was answered wrong')
    return took
  }
  await round()
  const before = await counters(peer)
  const took = await round()
  return { all_ms: [took, 'ms'], ...perCall(before, await counters(peer), calls) }
}

async function millionItems(peer) {
  const items = 1_000_000
  const round = async () => {
    let next = 0
    const begin = performance.now()
    for await (const item of peer.count(items)) {
      if (item !== next++) throw new Error(`item ${item} came in place of ${next - 1}`)
    }
    if (next !== items) throw new Error(`${next} items came`)
    return (items / (performance.now() - begin)) * 1000
  }
  await round()
  return { items_per_s: [await round(), '1/s'] }
}

function filled(peer, bytes) {
  const x = peer.array(bytes / 8)
  for (let i = 0; i < x.length; i++) x[i] = i % 1000
  return x
}

async function timed(peer, ms, action) {
  const repeat = async (ms, least) => {
    const times = []
    const end = performance.now() + ms
    for (let now = performance.now(); now < end || times.length < least; ) {
      await action()
      const after = performance.now()
      times.push(after - now)
      now = after
    }
    return times
  }
  await repeat(ms / 4, 1)
  const before = await counters(peer)
  const times = await repeat(ms, 3)
  const { p50_us } = quantiles(times)
  return { p50_us, ...perCall(before, await counters(peer), times.length) }
}

async function workers(peer, { ms, name, context }) {
  const data = { name, context: { ...context, share: peer.share }, width: 250, ms }
  const threads = Array.from(
    { length: 4 },
    () => new Worker(new URL('./worker.mjs', import.meta.url), { workerData: data }),
  )
  const exits = Promise.all(threads.map(thread => once(thread, 'exit')))
  const each = () => Promise.all(threads.map(async thread => (await once(thread, 'message'))[0]))
  try {
    await each()
    const before = await counters(peer)
    const answers = each()
    for (const thread of threads) thread.postMessage('go')
    const results = await answers
    const after = await counters(peer)
    const sum = of => results.reduce((total, result) => total + of(result), 0)
    for (const key in after?.self) after.self[key] += sum(({ counted }) => counted[key])
    return {
      calls_per_s: [sum(({ calls, seconds }) => calls / seconds), '1/s'],
      ...perCall(
        before,
        after,
        sum(({ all }) => all),
      ),
    }
  } finally {
    for (const thread of threads) thread.postMessage('stop')
    await Promise.race([exits, setTimeout(2000, null, { ref: false })]).catch(() => {})
  }
}

/** Calls that keep a processor busy, on one worker of Python and on two. */
function pythonWorkers(kind) {
  return async (peer, { ms }) => {
    const rate = async count => {
      const pool = await peer.pool(count, kind)
      const add = async (a, b) => {
        await pool.call('busy', [100_000])
        return a + b
      }
      try {
        await lanes({ add }, 4 * count, ms / 2, 1)
        const { calls, seconds } = await lanes({ add }, 4 * count, 2 * ms, 1)
        return calls / seconds
      } finally {
        await pool.close()
      }
    }
    const one = await rate(1)
    const two = await rate(2)
    return { calls_per_s_1: [one, '1/s'], calls_per_s_2: [two, '1/s'], speedup: [two / one, '1'] }
  }
}

/** Frames of 1 MB through four stages, each a process or more: a source, three detectors, an aggregator, a sink. */
async function pipeline(peer, { ms }) {
  const { frames, seconds, copied } = await peer.pipeline(2 * ms)
  const found = { frames_per_s: [frames / seconds, '1/s'] }
  return copied === undefined ? found : { ...found, bytes_copied: [copied, 'B/frame'] }
}

export async function counters(peer) {
  return peer.stats?.()
}

/** The counters of both sides, as differences; only isthmus has any. */
function perCall(before, after, calls) {
  if (!before) return {}
  const grown = key => after.self[key] - before.self[key] + after.host[key] - before.host[key]
  return {
    gil_takes_per_call: [(after.host.gil_takes - before.host.gil_takes) / calls, '1'],
    wakes_per_call: [grown('wakes') / calls, '1'],
    bytes_copied: [grown('bytes_copied') / calls, 'B/call'],
  }
}

function quantiles(times) {
  const sorted = Float64Array.from(times).sort()
  const at = q => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] * 1000
  return { p50_us: [at(0.5), 'us'], p99_us: [at(0.99), 'us'] }
}

const wrongSum = sum => new Error(`add(1, 2) answered ${sum}`)
