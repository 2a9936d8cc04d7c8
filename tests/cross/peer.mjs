// What peer.py offers, in JavaScript: node peer.mjs BUS [PREFIX of the names]

import { setTimeout as sleep } from 'node:timers/promises'
import { connect, current } from 'isthmus'
import { collect, usedBytes } from './memory.mjs'

const [bus, prefix = ''] = process.argv.slice(2)
const peer = await connect(bus)
const offer = functions => {
  for (const [name, f] of Object.entries(functions)) peer.export(prefix + name, f)
}

let events = []
let kept = []
offer({
  take_events: () => {
    const taken = events
    events = []
    return taken
  },
  echo: v => v,
  same: (a, b) => a === b,
  keep: v => void kept.push(v),
  keeper: () => v => void kept.push(v),
  keep_part: array => void kept.push(array.subarray(10).subarray(5, 20)),
  kept_is: value => [kept.at(-1).length, kept.at(-1).every(each => each === value)],
  make: (count, value) => peer.alloc(Float64Array, count).fill(value),
  take: () => kept.pop(),
  drop: () => {
    kept = []
    global.gc()
  },
})

// --- callbacks ---------------------------------------------------------------------------------------------

let functions = 0
const dropped = new FinalizationRegistry(() => functions--)
const adder = n => {
  const add = x => x + n
  functions++
  dropped.register(add)
  return add
}

const apply = async (f, ...args) => f(...args)
offer({
  apply,
  apply_thread: apply,
  apply_async: apply,
  apply_at_once: (f, n) => Promise.all(Array.from({ length: n }, (_, i) => f(i))),
  adder,
  adders: n => Array.from({ length: n }, (_, i) => adder(i)),
  living: async () => {
    await collect()
    return functions
  },
  descend: async (f, n) => (n === 0 ? 0 : 1 + (await f(n - 1))),
  descend_async: async (f, n) => (n === 0 ? 0 : 1 + (await f(n - 1))),
  meanwhile: async f => {
    let turns = 0
    const timer = setInterval(() => turns++, 1)
    await f()
    clearInterval(timer)
    return turns
  },
})

// --- streams -----------------------------------------------------------------------------------------------

let made = 0
offer({
  *count(n, failAt = -1, size = 0) {
    made = 0
    try {
      for (let i = 0; i < n; i++) {
        if (i === failAt) throw new RangeError(`no ${i}`)
        made = i + 1
        yield size ? 'x'.repeat(size) : i
      }
    } finally {
      events.push('closed')
    }
  },
  async *ticks(n, pause = 0.001) {
    made = 0
    try {
      for (let i = 0; i < n; i++) {
        await sleep(pause * 1000)
        made = i + 1
        yield i
      }
    } finally {
      events.push('closed')
    }
  },
  restream: async function* (stream) {
    yield* stream
  },
  how_many: () => made,
  total,
  total_async: total,
  first,
  first_async: first,
  slowly: async (stream, pause) => {
    for await (const item of stream) {
      await sleep(pause * 1000)
      return item
    }
  },
  until_error: async stream => {
    const taken = []
    try {
      for await (const item of stream) taken.push(item)
    } catch (error) {
      taken.push(error.message)
    }
    return taken
  },
})

async function total(stream) {
  let sum = 0
  for await (const item of stream) sum += item
  return sum
}

async function first(stream, n) {
  const taken = []
  for await (const item of stream) if (taken.push(item) === n) break
  return taken
}

// --- time and cancellation ---------------------------------------------------------------------------------

let touches = 0
const remaining = () => {
  const { deadline } = current()
  return deadline === undefined ? null : (deadline - performance.now()) / 1000
}
offer({
  hold: flag => {
    events.push('hold began')
    while (Atomics.load(flag, 0) === 0) Atomics.wait(flag, 0, 0, 1)
    events.push('hold ended')
  },
  touch: () => void touches++,
  touched: () => touches,
  nap: async seconds => {
    await sleep(seconds * 1000)
    return seconds
  },
  wait: async seconds => {
    events.push('wait began')
    try {
      await sleep(seconds * 1000, null, { signal: current().signal })
      events.push('wait ended')
    } catch (error) {
      events.push('wait cancelled')
      throw error
    } finally {
      events.push('wait cleaned up')
    }
  },
  remaining,
  remaining_async: async () => remaining(),
})

// --- errors ------------------------------------------------------------------------------------------------

const describe = error => ({
  class: error.constructor.name,
  type: error.type ?? error.name,
  message: error.message,
  stack: error.traceback ?? error.stack,
  cause: error.cause ? describe(error.cause) : null,
})
offer({
  fail: () => {
    throw new RangeError('a value', { cause: new TypeError('missing') })
  },
  wrap: async f => {
    try {
      return await f()
    } catch (error) {
      throw new Error('wrapped', { cause: error })
    }
  },
  told: async f => {
    try {
      return await f()
    } catch (error) {
      return describe(error)
    }
  },
  is_the_same: async f => {
    const raised = new RangeError('once')
    const thrower = () => {
      throw raised
    }
    try {
      return await f(thrower)
    } catch (error) {
      return error === raised
    }
  },
})

// --- remote objects ----------------------------------------------------------------------------------------

offer({ value_of: async box => box.value })

// --- memory ------------------------------------------------------------------------------------------------

offer({
  used: async () => {
    await collect()
    return usedBytes()
  },
})

process.stdin.on('end', () => process.exit()).resume()
console.log('ready')
