// Isolates that call one another: exports, functions that are passed, nesting, cancelling, errors.
import assert from 'node:assert/strict'
import { setMaxListeners } from 'node:events'
import { after, before, test } from 'node:test'
import { MessageChannel, Worker } from 'node:worker_threads'
import {
  connect,
  current,
  IsthmusError,
  isRemote,
  JsError,
  NotExportedError,
  spawn,
  TimeoutError,
} from 'isthmus'
import { app, collectGarbage, delay, until } from './support.mjs'

let py
let worker
before(async () => {
  py = await spawn(app, { memory: '64MiB' })
  py.export('add', (a, b) => a + b)
  worker = await startWorker()
})
after(async () => {
  await stop(worker)
  await py.close()
})

async function startWorker() {
  const worker = new Worker(new URL('./offers.mjs', import.meta.url), { workerData: py.name })
  await new Promise((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
  return worker
}

async function stop(worker) {
  worker.postMessage('stop')
  await new Promise(resolve => worker.once('exit', resolve))
}

test('what one isolate exports, others call by its name', async () => {
  assert.equal(await py.call('js_add', [1, 2]), 3)
  assert.equal(py.callSync('js_add', [1, 2]), 3)
  assert.equal(await py.exports.js_later(7), 7)
  assert.deepEqual(await py.call('js_all', [1], { kwargs: { a: 2 } }), [1, { a: 2 }])
})

test('thousands of calls in flight are each answered with their own result', async () => {
  const names = ['js_add', 'js_later_sum']
  const calls = Array.from({ length: 6000 }, (_, i) => py.call(names[i % 2], [i, 1]))
  assert.deepEqual(
    await Promise.all(calls),
    Array.from({ length: 6000 }, (_, i) => i + 1),
  )
})

test('a name that nobody exports is refused with those that are close', async () => {
  await assert.rejects(py.call('js_ad'), NotExportedError)
})

test('what is posted is performed, and what fails is a warning there', async () => {
  py.post('js_note', ['posted'])
  await until('the note has arrived', async () => (await py.call('js_notes')).includes('posted'))
})

test('arrays come and go without a copy', async () => {
  const array = py.alloc(Float64Array, 100_000).fill(2)
  assert.equal(await py.call('js_sum', [array]), 200_000)
  const made = await py.call('js_filled', [50_000, 3])
  assert.equal(made.length, 50_000)
  assert.equal(made[49_999], 3)
})

test('a function that is passed is called back', async () => {
  assert.deepEqual(await py.call('js_map', [[1, 2, 3], x => x * 2]), [2, 4, 6])
  assert.deepEqual(await py.call('js_map', [[1, 2, 3], async x => x * 3]), [3, 6, 9])
})

test('a function that comes back is the very same', async () => {
  const f = () => 1
  assert.equal(await py.call('js_same', [f]), f)
  assert.equal((await py.call('js_same', [{ list: [f] }])).list[0], f)
  assert.equal(await py.call('js_same', [f]), await py.call('js_same', [f]))
})

test('a function of another isolate is an async function, and one for each', async () => {
  const counter = await py.call('js_counter')
  assert.ok(isRemote(counter))
  assert.equal(await counter(2), 2)
  assert.equal(await counter(3), 5)
  assert.equal(await py.call('js_is_counter', [counter]), true)
})

/** Passes functions that nobody else has; weak references to them. */
async function passFunctions(name, count) {
  const calls = []
  const made = []
  for (let i = 0; i < count; ++i) {
    const f = () => i
    made.push(new WeakRef(f))
    calls.push(py.call(name, [f]))
  }
  await Promise.all(calls)
  return made
}

test('functions are released when nobody has them any more', async () => {
  const made = await passFunctions('js_same_not', 200)
  await py.call('js_collect')
  await until('they were collected', async () => {
    await py.call('js_collect')
    await collectGarbage()
    return made.every(each => each.deref() === undefined)
  })
})

test('a function that was released can not be called', async () => {
  const f = await py.call('js_maker')
  assert.equal(await f(), 1)
  f.release()
  f.release()
  await assert.rejects(async () => f(), { code: 'ERR_ISTHMUS_RELEASED' })
})

test('what a peer held is released when it ends', async () => {
  const other = await startWorker()
  const made = await passFunctions(`js_hold_${other.threadId}`, 50)
  await collectGarbage()
  assert.ok(made.every(each => each.deref() !== undefined))
  await other.terminate()
  await until('they were collected', async () => {
    await collectGarbage()
    return made.every(each => each.deref() === undefined)
  })
})

test('callSync serves the callbacks of its own call', () => {
  const seen = []
  const result = py.callSync('js_map_sync', [
    [1, 2, 3],
    x => {
      seen.push(x)
      return x + 1
    },
  ])
  assert.deepEqual(result, [2, 3, 4])
  assert.deepEqual(seen, [1, 2, 3])
})

test('callSync serves no other calls, which wait', async () => {
  const order = []
  const other = await startWorker()
  py.export('main_note', what => void order.push(what))
  other.postMessage('call main_note')
  const slowly = x => {
    const end = performance.now() + 50
    while (performance.now() < end);
    order.push(x)
    return x
  }
  py.callSync('js_map_sync', [[1, 2, 3], slowly])
  await until('the other call was performed', () => order.length === 4)
  assert.deepEqual(order, [1, 2, 3, 'called'])
  await stop(other)
})

test('while an isolate is blocked others call it in vain, and give up; then their calls have their turn', async () => {
  const order = []
  const other = await startWorker()
  const { port1: port, port2: begin } = new MessageChannel()
  const flag = new Int32Array(new SharedArrayBuffer(4))
  const hasBegun = new Promise(resolve => {
    py.export('main_until_aborted', () => {
      current().signal.addEventListener('abort', () => order.push('aborted'))
      resolve()
      return new Promise(() => {})
    })
  })
  py.export('main_note', what => order.push(what))
  other.postMessage({ begin, flag }, [begin])
  await hasBegun
  const outcomes = new Promise(resolve => port.once('message', resolve))
  port.postMessage('go on')
  const own = i => {
    assert.notEqual(Atomics.wait(flag, 0, 0, 20_000), 'timed-out')
    order.push(`own ${i}`)
  }
  py.callSync(`js_map_sync_${worker.threadId}`, [[1, 2], own])
  assert.deepEqual(order, ['own 1', 'own 2'])
  assert.deepEqual(await outcomes, ['given up', 4, 'given up', 5])
  assert.deepEqual(order.slice(2), ['aborted', 1, 3])
  await stop(other)
})

test('of two isolates that block in calls of one another, one performs the call of the other', async () => {
  const second = await connect(py.name)
  for (const [i, bus] of [py, second].entries()) {
    const flag = bus.alloc(Int32Array, 1)
    bus.export(`main_value_${i}`, () => 'main')
    const theirs = bus.call('js_block_in', [`main_value_${i}`, flag])
    await until('the other isolate has begun', () => Atomics.load(flag, 0) === 1)
    Atomics.store(flag, 0, 2)
    assert.equal(bus.callSync('js_add', [1, 2]), 3)
    assert.equal(await theirs, 'main')
  }
  await second.close()
})

test('a callback that returns a promise while its isolate is blocked is an error that says so', () => {
  assert.throws(
    () => py.callSync('js_map_sync', [[1], async x => x]),
    error => error.code === 'ERR_ISTHMUS_NESTED' && /blocked in callSync/.test(error.message),
  )
})

test('calls go back and forth a hundred deep, and not deeper than the limit', async () => {
  py.export('main_down', n => (n === 0 ? 0 : 1 + py.callSync('js_down', [n - 1])))
  assert.equal(py.callSync('js_down', [100]), 100)
  assert.throws(
    () => py.callSync('js_down', [400]),
    error => /nested deeper than 128/.test(error.message),
  )
  py.export('main_deep', async n => (n === 0 ? 0 : 1 + (await py.call('js_deep', [n - 1]))))
  assert.equal(await py.call('js_deep', [100]), 100)
})

test('a handler knows who calls, until when, and nothing of other calls', async () => {
  assert.equal(current(), undefined)
  const about = await py.call('js_about', [], { timeout: 5000 })
  assert.equal(about.name, 'js_about')
  assert.ok(about.caller.length > 0)
  assert.ok(about.left > 4000 && about.left <= 5001, `${about.left}`)
  assert.equal((await py.call('js_about')).left, null)
})

test('a caller that is gone is not taken for who has its place now', async () => {
  const other = await startWorker()
  let call
  let before
  py.export('main_note', () => {
    call = current()
    before = call.caller
  })
  other.postMessage('call main_note')
  await until('it has called', () => call !== undefined)
  assert.match(before, new RegExp(`worker ${other.threadId}`))
  await stop(other)
  for (let i = 0; i < 80; ++i) await (await connect(py.name)).close()
  assert.equal(call.caller, '')
})

test('nested calls inherit the deadline', async () => {
  let left
  py.export('main_deadline', () => {
    const { deadline } = current()
    left = deadline === undefined ? undefined : deadline - performance.now()
  })
  await py.call('js_call_main', ['main_deadline'], { timeout: 3000 })
  assert.ok(left > 1000 && left <= 3001, `${left}`)
  await py.call('js_call_main', ['main_deadline'])
  assert.equal(left, undefined)
})

test('an aborted call aborts the signal of its handler', async () => {
  const controller = new AbortController()
  const call = py.call('js_until_aborted', ['one'], { signal: controller.signal })
  await until('it has begun', async () => (await py.call('js_notes')).includes('one begins'))
  controller.abort(new Error('enough'))
  await assert.rejects(call, /enough/)
  await until('it was aborted', async () => (await py.call('js_notes')).includes('one aborted'))
})

test('a call that is not answered in time aborts the signal, too', async () => {
  await assert.rejects(py.call('js_until_aborted', ['two'], { timeout: 500 }), TimeoutError)
  await until('it was aborted', async () => (await py.call('js_notes')).includes('two aborted'))
})

test('ten thousand calls that are cancelled before they begin never run', async () => {
  const before = await py.call('js_ran')
  const flag = py.alloc(Int32Array, 1)
  const blocker = py.call('js_block', [flag])
  await until('the other isolate is busy', () => Atomics.load(flag, 0) === 1)
  const controller = new AbortController()
  setMaxListeners(0, controller.signal)
  const calls = Array.from({ length: 10_000 }, () => py.call('js_run', [], { signal: controller.signal }))
  const outcomes = Promise.allSettled(calls)
  controller.abort(new Error('no'))
  assert.ok((await outcomes).every(each => each.status === 'rejected'))
  await new Promise(setImmediate)
  Atomics.store(flag, 0, 2)
  await blocker
  assert.equal(await py.call('js_ran'), before)
})

test('a steady trickle of posts keeps no call waiting after a long handler', async () => {
  const long = py.call('js_spend', [500])
  const answered = py.call('js_add', [1, 1]).then(() => true)
  let posts = 0
  while (posts < 2000 && !(await Promise.race([answered, delay(2, false)]))) {
    py.post('js_run')
    ++posts
  }
  await long
  assert.ok(posts < 2000, 'it was answered while posts still came')
})

test('what a handler has begun is not bound by the time of its call once that is answered', async () => {
  const other = await connect(py.name)
  let deadline
  let goOn
  let later
  other.export('main_begins', () => {
    deadline = current().deadline
    later = new Promise(resolve => {
      goOn = resolve
    }).then(() => other.call('add', [1, 2]))
  })
  await py.call('main_begins', [], { timeout: 500 })
  await until('the time is over', () => performance.now() > deadline)
  goOn()
  assert.equal(await later, 3)
  await other.close()
})

const oddHandlers = {
  'a thenable whose then throws': () => ({
    // biome-ignore lint/suspicious/noThenProperty: that is what is tested
    then() {
      throw new Error('from then')
    },
  }),
  'an error whose message is no text': () => {
    throw Object.assign(new Error(), { message: Object.create(null) })
  },
  'such an error later': async () => {
    throw Object.assign(new Error(), { message: Object.create(null) })
  },
  'an error whose stack can not be read': () => {
    throw Object.defineProperty(new Error('x'), 'stack', {
      get() {
        throw new Error('no stack')
      },
    })
  },
  'something that was revoked': () => {
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    throw proxy
  },
}
for (const [i, [what, handler]] of Object.entries(oddHandlers).entries()) {
  test(`a handler that gives ${what} is answered, and so is the rest of its batch`, {
    timeout: 20_000,
  }, async () => {
    const other = await connect(py.name)
    other.export(`main_odd_${i}`, handler) // another name each time: who has just left may be taken for living
    const [odd, ...rest] = await Promise.allSettled([
      py.call(`main_odd_${i}`),
      ...[1, 2, 3].map(i => py.call('add', [i, 0])),
    ])
    assert.ok(odd.reason instanceof JsError, String(odd.reason))
    assert.deepEqual(
      rest.map(({ value }) => value),
      [1, 2, 3],
    )
    await other.close()
  })
}

test('what another isolate throws is a JsError with its stack and its cause', async () => {
  await assert.rejects(py.call('js_fail', ['it broke']), error => {
    assert.ok(error instanceof JsError)
    assert.equal(error.code, 'ERR_ISTHMUS_JS')
    assert.equal(error.type, 'RangeError')
    assert.equal(error.message, 'it broke')
    assert.match(error.traceback, /offers\.mjs/)
    assert.match(error.stack, /exports\.test\.mjs|offers\.mjs/)
    assert.equal(error.cause.message, 'because')
    return true
  })
  await assert.rejects(
    py.call('js_throw', ['text']),
    error => error instanceof JsError && error.message === 'text',
  )
})

test('an error that comes home is the very same', async () => {
  const mine = new Error('mine')
  const fails = () => {
    throw mine
  }
  await assert.rejects(py.call('js_map', [[1], fails]), error => error === mine)
  assert.throws(
    () => py.callSync('js_map_sync', [[1], fails]),
    error => error === mine,
  )
})

test('an error passes through with its type, and says so', async () => {
  await assert.rejects(py.call('js_map', [[1], () => py.call('js_fail', ['deep'])]), error => {
    assert.ok(error instanceof JsError)
    assert.equal(error.type, 'RangeError')
    assert.match(error.traceback, /offers\.mjs/)
    return true
  })
})

test('a stream of another isolate is iterated over, and closed early', async () => {
  const stream = await py.call('js_count', [5])
  const items = []
  for await (const item of stream) items.push(item)
  assert.deepEqual(items, [0, 1, 2, 3, 4])
  const endless = await py.call('js_count', [1e9])
  for await (const item of endless) if (item === 5000) break
  assert.ok((await py.call('js_notes')).includes('closed'))
})

test('a peer that ends lets the calls to it fail', async () => {
  const other = await startWorker()
  const f = await py.call(`js_own_${other.threadId}`)
  const call = Promise.resolve(f())
  await py.call('js_add', [1, 1])
  await other.terminate()
  await assert.rejects(call, { code: 'ERR_ISTHMUS_HOST_LOST' })
  await assert.rejects(async () => f(), { code: 'ERR_ISTHMUS_HOST_LOST' })
})

test('an exception in one isolate does not stop the other', async () => {
  const other = await connect(py.name)
  assert.equal(await other.call('js_add', [2, 2]), 4)
  assert.equal(await other.call('add', ['a', 'b']), 'ab')
  await other.close()
  await assert.rejects(other.call('js_add', [1, 1]), IsthmusError)
})
