// An isolate that exports: what exports.test.mjs calls.
import { parentPort, threadId, workerData } from 'node:worker_threads'
import { connect, current } from 'isthmus'

const bus = await connect(workerData)
const notes = []
const kept = []
let ran = 0
let total = 0
const counter = n => (total += n)

bus.export('js_add', (a, b) => a + b)
bus.export('js_later', async value => {
  await new Promise(resolve => setTimeout(resolve, 5))
  return value
})
bus.export('js_later_sum', async (a, b) => a + b)
bus.export('js_all', (...args) => args)
bus.export('js_note', what => void notes.push(what))
bus.export('js_notes', () => notes)
bus.export('js_sum', array => array.reduce((a, b) => a + b, 0))
bus.export('js_filled', (n, value) => bus.alloc(Float64Array, n).fill(value))
bus.export('js_map', (values, f) => Promise.all(values.map(value => f(value))))
const mapSync = (values, f) => values.map(value => bus.callSync(f, [value]))
for (const name of ['js_map_sync', `js_map_sync_${threadId}`]) bus.export(name, mapSync)
bus.export('js_same', value => value)
bus.export('js_same_not', () => null)
bus.export('js_collect', async () => {
  for (let i = 0; i < 3; ++i) {
    globalThis.gc()
    await new Promise(resolve => setTimeout(resolve, 5))
  }
})
bus.export('js_counter', () => counter)
bus.export('js_is_counter', f => f === counter)
bus.export('js_maker', () => () => 1)
bus.export('js_down', n => (n === 0 ? 0 : 1 + bus.callSync('main_down', [n - 1])))
bus.export('js_deep', async n => (n === 0 ? 0 : 1 + (await bus.call('main_deep', [n - 1]))))
bus.export('js_about', () => {
  const { name, caller, deadline } = current()
  return { name, caller, left: deadline === undefined ? null : deadline - performance.now() }
})
bus.export('js_call_main', async name => {
  await new Promise(resolve => setTimeout(resolve, 1))
  await bus.call(name)
})
bus.export('js_until_aborted', name => {
  const { signal } = current()
  notes.push(`${name} begins`)
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => {
      notes.push(`${name} aborted`)
      reject(signal.reason)
    })
  })
})
bus.export('js_block', flag => {
  Atomics.store(flag, 0, 1)
  while (Atomics.load(flag, 0) === 1);
})
bus.export('js_block_in', (name, flag) => {
  Atomics.store(flag, 0, 1)
  while (Atomics.load(flag, 0) === 1);
  return bus.callSync(name)
})
bus.export('js_spend', ms => {
  const end = performance.now() + ms
  while (performance.now() < end);
})
bus.export('js_run', () => void ++ran)
bus.export('js_ran', () => ran)
bus.export('js_fail', message => {
  throw new RangeError(message, { cause: new Error('because') })
})
bus.export('js_throw', value => {
  throw value
})
bus.export('js_count', function* (n) {
  try {
    for (let i = 0; i < n; ++i) yield i
  } finally {
    notes.push('closed')
  }
})
bus.export(`js_own_${threadId}`, () => () => new Promise(() => {}))
bus.export(`js_hold_${threadId}`, list => {
  kept.push(list)
})
/** Calls main, and gives one call up that has begun there, and one that has not; lets main go on, which is blocked. */
async function callAndGiveUp({ begin, flag }) {
  const controller = new AbortController()
  const { signal } = controller
  const begun = bus.call('main_until_aborted', [], { signal })
  await new Promise(resolve => begin.once('message', resolve))
  const calls = [1, 2, 3].map(i => bus.call('main_note', [i], i === 2 ? { signal } : {}))
  const outcomes = Promise.allSettled([begun, ...calls])
  controller.abort(new Error('given up'))
  await new Promise(setImmediate)
  Atomics.store(flag, 0, 1)
  Atomics.notify(flag, 0)
  begin.postMessage((await outcomes).map(each => each.value ?? each.reason.message))
  begin.close()
}

parentPort.on('message', what => {
  if (what === 'call main_note') bus.post('main_note', ['called'])
  else if (what !== 'stop') void callAndGiveUp(what)
  else {
    parentPort.close()
    bus.close()
  }
})
parentPort.postMessage('ready')
