// Queues and topics from JavaScript: with a single host, with workers, between isolates, and with Python.

import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { connect, EncodeError, HostLostError, IsthmusError, PythonError, spawn, TimeoutError } from 'isthmus'
import { Access } from '../../adapters/node/dist/access.js'
import { collectGarbage, run, until } from './support.mjs'

const app = fileURLToPath(new URL('./queues_app.py', import.meta.url))
const patience = 30_000

async function start(t, options) {
  const py = await spawn(app, options)
  t.after(() => py.close())
  return py
}

/** Another peer on the same bus. */
async function join(t, py) {
  const other = await connect(py.name)
  t.after(() => other.close())
  return other
}

async function take(queue, count) {
  const values = []
  for await (const message of queue) {
    values.push(message.value)
    message.ack()
    if (values.length === count) break
  }
  return values
}

const range = count => Array.from({ length: count }, (_, i) => i)

for (const workers of [undefined, 2]) {
  const served = workers === undefined ? 'a single host' : `${workers} workers`
  test(`with ${served}, what is put comes out as it went in, in order, here and in Python`, async t => {
    const py = await start(t, { workers })
    const q = py.queue('q', { prefetch: 8 })
    const values = [
      null,
      true,
      -2.5,
      'é\ud800',
      2n ** 80n,
      [1, [2]],
      { a: { b: [] } },
      new Date(0),
      new Float32Array([1, 2]),
    ]
    const putting = values.map(value => q.put(value))
    assert.deepEqual(await take(q, values.length), values)
    await Promise.all(putting)
    const taking = py.call('take', [py.name, 'there', 300])
    const there = py.queue('there', { depth: 16 })
    for (const i of range(300)) await there.put(i)
    assert.deepEqual(
      await taking,
      range(300).map(i => [i, 1]),
    )
    const putThere = py.call('put', [py.name, 'back', range(300)])
    assert.deepEqual(await take(py.queue('back', { prefetch: 4 }), 300), range(300))
    await putThere
    const { waiting, unacknowledged, put, acknowledged } = await q.stats()
    assert.deepEqual([waiting, unacknowledged, put, acknowledged], [0, 0, values.length, values.length])
  })
}

test('competing consumers get each message once', async t => {
  const py = await start(t)
  const others = [py, await join(t, py), await join(t, py)]
  const queues = others.map(each => each.queue('q', { prefetch: 5 }))
  const taken = queues.map(async queue => {
    const values = []
    for await (const message of queue) {
      values.push(message.value)
      message.ack()
    }
    return values
  })
  const source = py.queue('q', { depth: 50 })
  await Promise.all(range(2000).map(i => source.put(i)))
  await until('all are acknowledged', async () => (await source.stats()).acknowledged === 2000, patience)
  for (const queue of queues) await queue.close()
  const values = await Promise.all(taken)
  for (const each of values)
    assert.deepEqual(
      each,
      [...each].sort((a, b) => a - b),
    )
  assert.deepEqual(
    values.flat().sort((a, b) => a - b),
    range(2000),
  )
})

test('a full queue has its producers wait, until there is room, their time is out, or they give up', async t => {
  const py = await start(t)
  const q = py.queue('q', { depth: 2 })
  await q.put(1)
  await q.put(2)
  await assert.rejects(q.put(3, { timeout: 20 }), error => {
    assert.ok(error instanceof TimeoutError)
    assert.match(error.message, /the queue 'q' had no room within 20 ms/)
    return true
  })
  const controller = new AbortController()
  const given = q.put(4, { signal: controller.signal })
  const waiting = [q.put(5), q.put(6)]
  controller.abort(new Error('enough'))
  await assert.rejects(given, /enough/)
  assert.deepEqual(await take(py.queue('q'), 4), [1, 2, 5, 6])
  await Promise.all(waiting)
  assert.equal((await q.stats()).put, 4)
})

test('thousands of puts that wait hold nothing else up, are taken in order, and can be withdrawn', async t => {
  const py = await start(t)
  const [full, q] = [py.queue('full', { depth: 1 }), py.queue('q', { depth: 1, prefetch: 2 })]
  const [leaving, stopped] = [new AbortController(), new Error('stopped')]
  const blocked = range(1500).map(i => full.put(i, { signal: leaving.signal }))
  const rejected = Promise.allSettled(blocked)
  const putting = Promise.all(range(3000).map(i => q.put(i)))
  assert.deepEqual(await take(q, 3000), range(3000))
  await putting
  await assert.rejects(full.put('late', { timeout: 1 }), /'full' had no room within 1 ms/)
  leaving.abort(stopped)
  const outcomes = await rejected
  assert.equal(outcomes[0].status, 'fulfilled')
  assert.deepEqual(new Set(outcomes.slice(1).map(({ reason }) => reason)), new Set([stopped]))
  assert.deepEqual(await take(full, 1), [0])
  const news = py.topic('t').subscribe({ depth: 1 })
  const publishing = Promise.all(range(3000).map(i => py.topic('t').publish(i)))
  for (const i of range(3000)) assert.equal((await news.next()).value, i)
  await publishing
})

test('what is begun while the keeper is found comes before what is begun right after', async () => {
  for (const steps of range(12)) {
    const found = Promise.resolve()
    const access = new Access({ call: () => found }, 'bus')
    const begun = []
    const first = access.async(async () => begun.push(1))
    for (const _ of range(steps)) await undefined
    await access.async(async () => begun.push(2))
    await first
    assert.deepEqual(begun, [1, 2], `${steps} steps later`)
  }
})

/** Does something while the process that holds the bus is stopped. */
async function whileStopped(py, work) {
  const { pid } = (await py.stats()).memory.peers.find(each => each.name === 'queues_app.py')
  process.kill(pid, 'SIGSTOP')
  try {
    await work()
  } finally {
    process.kill(pid, 'SIGCONT')
  }
}

test('times and signals of those who look for a keeper that does not answer are their own', async t => {
  const py = await start(t)
  const bus = await join(t, py)
  const [q, topic] = [bus.queue('q'), bus.topic('t')]
  const leaving = new AbortController()
  const reason = new Error('enough')
  const ways = [
    ["the queue 'q' had no room", options => q.put('given up', options)],
    ["the queue 'q' had no message", options => q.get(options)],
    ["the topic 't' had no room", options => topic.publish('given up', options)],
  ]
  const told = []
  await whileStopped(py, async () => {
    for (const [lack, begin] of ways) {
      begin({ timeout: 50 }).catch(error => {
        assert.ok(error instanceof TimeoutError)
        told.push(error.message)
      })
      for (const signal of [AbortSignal.abort(reason), leaving.signal])
        begin({ signal }).catch(error => told.push(error === reason && lack))
    }
    await until('those are told who were too late', () => told.length === 2 * ways.length, patience)
    leaving.abort(reason)
    await until('all are told', () => told.length === 3 * ways.length, patience)
  })
  assert.deepEqual(told.sort(), ways.flatMap(([lack]) => [lack, lack, `${lack} within 50 ms`]).sort())
  assert.deepEqual(getEventListeners(leaving.signal, 'abort'), [])
  const news = topic.subscribe()
  await topic.publish('news')
  assert.equal((await news.next()).value, 'news')
  await q.put('kept')
  assert.deepEqual(await take(q, 1), ['kept'])
  assert.equal((await q.stats()).put, 1)
})

test('what is begun while the keeper does not answer is done in that order, within what is left of its time', async t => {
  const py = await start(t)
  const bus = await join(t, py)
  const [q, topic] = [bus.queue('q', { prefetch: 4 }), bus.topic('t')]
  const begun = []
  let news
  let got
  await whileStopped(py, async () => {
    news = topic.subscribe()
    got = q.get({ timeout: 0 })
    begun.push(q.put(1, { timeout: patience }), q.put(2), topic.publish('news'))
    await assert.rejects(q.get({ timeout: 20 }), TimeoutError)
    begun.push(q.put(3, { timeout: 0 }))
  })
  const first = await got
  first.ack()
  assert.deepEqual([first.value, ...(await take(q, 2))], [1, 2, 3])
  await Promise.all(begun)
  assert.equal((await news.next()).value, 'news')
  await assert.rejects(bus.queue('none').get({ timeout: 20 }), /'none' had no message within 20 ms/)
})

test('the deadline of a handler that looks for the keeper first is its own', async t => {
  const py = await start(t)
  const [bus, caller] = [await join(t, py), await join(t, py)]
  const q = bus.queue('q')
  let first
  bus.export('handle', puts => {
    if (puts) first = assert.rejects(q.put('first'), TimeoutError)
    return puts ? first : undefined
  })
  await caller.call('handle', [false])
  let second
  let settled = false
  await whileStopped(py, async () => {
    const called = assert.rejects(caller.call('handle', [true], { timeout: 100 }), TimeoutError)
    await until('the handler has begun', () => first !== undefined, patience)
    second = q.put('second')
    second
      .catch(() => {})
      .finally(() => {
        settled = true
      })
    await called
    await assert.rejects(q.get({ timeout: 100 }), TimeoutError)
    assert.equal(settled, false)
  })
  await second
  await first
  assert.deepEqual(await take(q, 1), ['second'])
})

test('a host that waits for the answer of who looks for the keeper starts it', async t => {
  const py = await start(t)
  const q = py.queue('q')
  assert.equal(await py.call('ask', [() => q.put(1).then(() => 'put')], { timeout: patience }), 'put')
  assert.deepEqual(await take(q, 1), [1])
})

test('a get waits for a message, until its time is out or it is given up, and then others get it', async t => {
  const py = await start(t)
  const q = py.queue('q')
  await assert.rejects(q.get({ timeout: 20 }), TimeoutError)
  const controller = new AbortController()
  const given = q.get({ signal: controller.signal })
  await q.stats()
  controller.abort(new Error('enough'))
  await assert.rejects(given, /enough/)
  await assert.rejects(q.get({ signal: AbortSignal.abort(new Error('before')) }), /before/)
  await q.put('x')
  const message = await (await join(t, py)).queue('q').get({ timeout: patience })
  assert.deepEqual([message.value, message.deliveries], ['x', 1])
})

test('a consumer holds no more than it may, and gets no more than it waits for', async t => {
  const py = await start(t)
  const q = py.queue('q', { prefetch: 2 })
  for (const i of range(6)) await q.put(i)
  const [first, second] = [await q.get(), await q.get()]
  await assert.rejects(q.get({ timeout: 20 }), TimeoutError)
  assert.equal((await q.stats()).unacknowledged, 2)
  second.ack()
  assert.equal((await q.stats()).unacknowledged, 1)
  const third = await q.get()
  assert.deepEqual([first.value, third.value], [0, 2])
  third.ack()
  for await (const message of q) {
    message.ack()
    break
  }
  await q.stats() // behind what it gave back, which comes by another way than the next one asks
  const rest = (await join(t, py)).queue('q')
  const message = await rest.get()
  assert.deepEqual([message.value, message.deliveries], [4, 1])
})

test('acknowledging twice, elsewhere or too late has one clear answer', async t => {
  const py = await start(t)
  const q = py.queue('q')
  await q.put(1)
  await q.put(2)
  const message = await q.get()
  assert.throws(() => py.queue('q').ack(message), /came from another object/)
  q.ack(message)
  assert.throws(() => message.ack(), { code: 'ERR_ISTHMUS_RELEASED' })
  assert.throws(() => message.reject(), /was acknowledged already/)
  const held = await q.get()
  const waiting = q.get()
  await q.close()
  await assert.rejects(waiting, /was closed here/)
  assert.throws(() => held.ack(), /closed, or lost, before the message was acknowledged/)
  await assert.rejects(q.get(), IsthmusError)
  for await (const _ of q) assert.fail('a closed queue gives nothing')
  const again = await py.queue('q').get({ timeout: patience })
  assert.deepEqual([again.value, again.deliveries], [2, 2])
})

test('what was on its way to a consumer that closes is for others', async t => {
  const py = await start(t)
  const source = (await join(t, py)).queue('q', { depth: 10_000 })
  await source.stats()
  let acknowledged = 0
  for (let round = 0; round < 30; ++round) {
    const q = py.queue('q', { prefetch: 32 })
    const putting = range(64).map(i => source.put(i))
    for await (const message of q) {
      message.ack()
      ++acknowledged
      await q.close()
    }
    await Promise.all(putting)
  }
  const rest = py.queue('q', { prefetch: 8 })
  while ((await source.stats()).waiting > 0) {
    const message = await rest.get({ timeout: patience })
    message.ack()
    ++acknowledged
  }
  await until('nobody holds any', async () => (await source.stats()).unacknowledged === 0)
  const { put, late, acknowledged: counted } = await source.stats()
  assert.deepEqual([acknowledged, counted, late], [put, put, 0])
})

test('what is rejected too often goes to the dead', async t => {
  const py = await start(t)
  const q = py.queue('q', { deliveries: 2 })
  await q.put({ poison: true })
  for (const deliveries of [1, 2]) {
    const message = await q.get()
    assert.equal(message.deliveries, deliveries)
    message.reject()
  }
  const dead = await q.dead.get()
  assert.deepEqual([dead.value, dead.deliveries, q.dead.name], [{ poison: true }, 1, 'q.dead'])
  const { dead: given, redelivered } = await q.stats()
  assert.deepEqual([given, redelivered], [1, 1])
})

test('what a consumer can not read is its error, and dead in the end', async t => {
  const py = await start(t)
  const q = py.queue('q', { deliveries: 3 })
  const confusing = new Map([
    [1, 'a'],
    [true, 'b'],
  ])
  await q.put(confusing)
  await q.put('fine')
  const unreadable = 'a container has keys that Python takes for one'
  const taken = await py.call('take_what_can_be_read', [py.name, 'q'])
  assert.deepEqual(
    taken.map(each => each.slice(0, unreadable.length)),
    [unreadable, unreadable, unreadable, 'fine'],
  )
  assert.deepEqual((await q.dead.get()).value, confusing)
})

test('a message that a consumer can not read spares what it holds', async t => {
  const py = await start(t)
  const q = py.queue('q', { deliveries: 3 })
  const confusing = new Map([
    [1, 'a'],
    [true, 'b'],
  ])
  for (const value of ['one', confusing, 'two', 'three']) await q.put(value)
  const [taken, failed] = await py.call('take_all_that_can_be_read', [py.name, 'q', 3])
  assert.deepEqual(taken.map(([value]) => value).sort(), ['one', 'three', 'two'])
  assert.equal(failed, 3)
  assert.equal((await q.stats()).acknowledged, 3)
  assert.deepEqual((await q.dead.get()).value, confusing)
})

test('a message that can not be read here spares what is held, and those behind it', async t => {
  const py = await start(t)
  const q = py.queue('q', { prefetch: 4, deliveries: 2 })
  const news = py.topic('q').subscribe()
  await news.ready
  await py.call('put_between_others_what_javascript_cannot_read', [py.name, 'q'])
  const held = []
  let failed = 0
  while (held.length < 3 || failed < 2) {
    await q.get().then(
      message => held.push(message),
      error => {
        assert.match(error.message, /'<f16' is no dtype/)
        failed++
      },
    )
  }
  for (const message of held) message.ack()
  assert.deepEqual(
    held.map(({ value, deliveries }) => [value, deliveries]),
    [
      ['one', 1],
      ['two', 1],
      ['three', 1],
    ],
  )
  const { acknowledged, unacknowledged, dead } = await q.stats()
  assert.deepEqual([acknowledged, unacknowledged, dead], [3, 0, 1])
  await assert.rejects(news.next(), /'<f16' is no dtype/)
  assert.deepEqual(await news.next(), { done: false, value: ['later', 2] })
})

test('another depth is an error that says so', async t => {
  const py = await start(t)
  await py.queue('q', { depth: 4 }).put(1)
  const wrong = py.queue('q', { depth: 5 })
  for (const operation of [() => wrong.put(1), () => wrong.get(), () => wrong.get(), () => wrong.stats()]) {
    await assert.rejects(operation, error => {
      assert.ok(error instanceof PythonError)
      assert.match(error.message, /the queue 'q' has depth 4, and not 5/)
      return true
    })
  }
})

test('only values can be put, and names of the machinery are reserved', async t => {
  const py = await start(t)
  const q = py.queue('q')
  await assert.rejects(q.put({ rows: [1, () => 1] }), error => {
    assert.ok(error instanceof EncodeError)
    assert.equal(error.path, 'args[0].rows[1]')
    return true
  })
  await assert.rejects(py.topic('t').publish((function* () {})()), EncodeError)
  assert.throws(() => py.export('isthmus.queue.put', () => {}), /reserved/)
  // Whoever does not keep to that is told by the keeper.
  await assert.rejects(
    py.call('isthmus.queue.put', [() => 1, 'q', null, null]),
    /queues and topics carry values alone/,
  )
  assert.equal((await q.stats()).put, 0)
})

test('a message goes to another when its isolate is terminated', async t => {
  const py = await start(t)
  const q = py.queue('q', { prefetch: 2 })
  for (const i of range(3)) await q.put(i)
  const program = `
    const { parentPort, workerData } = require('node:worker_threads')
    const { connect } = require('isthmus')
    connect(workerData).then(async py => {
      const q = py.queue('q', { prefetch: 2 })
      const held = [await q.get(), await q.get()]
      parentPort.postMessage(held.map(each => each.value))
      setInterval(() => held, 1000)
    })`
  const worker = new Worker(program, { eval: true, workerData: py.name })
  const held = await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
  assert.deepEqual(held, [0, 1])
  await worker.terminate()
  const [first, second] = [await q.get({ timeout: patience }), await q.get({ timeout: patience })]
  assert.deepEqual(
    [first, second].map(each => [each.value, each.deliveries]),
    [
      [0, 2],
      [1, 2],
    ],
  )
})

test('whoever waits is told when the host goes', async t => {
  const py = await start(t)
  const q = py.queue('q', { depth: 1 })
  await q.put(1)
  const message = await q.get()
  const subscription = py.topic('t').subscribe()
  await subscription.ready
  const all = [q.put(2), q.get(), subscription.next()].map(promise => assert.rejects(promise, HostLostError))
  const pid = (await py.stats()).memory.peers.find(each => each.name === 'isthmus queues').pid
  process.kill(pid, 'SIGKILL')
  await Promise.all(all)
  assert.throws(() => message.ack(), IsthmusError)
})

for (const wasUsed of [false, true]) {
  test(`what ended with its bus says so by its name every time, ${wasUsed ? 'used' : 'unused'} before`, async t => {
    const py = await start(t)
    const bus = await join(t, py)
    const [q, topic] = [bus.queue('q'), bus.topic('t')]
    let subscription = topic.subscribe()
    if (wasUsed) {
      await q.put(1)
      const message = await q.get()
      message.ack()
      await subscription.ready
    } else {
      subscription.ready.catch(() => {})
      await subscription.close()
      subscription = undefined
    }
    const loop = async () => {
      for await (const message of q) message.ack()
    }
    const operations = [
      ["put to the queue 'q'", () => q.put(1)],
      ["get from the queue 'q'", () => q.get({ timeout: patience })],
      ["get from the queue 'q'", loop],
      ["stats of the queue 'q'", () => q.stats()],
      ["publish to the topic 't'", () => topic.publish(1)],
      ["subscribe to the topic 't'", () => topic.subscribe().ready],
    ]
    if (wasUsed) operations.push(["get from the topic 't'", () => subscription.next()])
    process.kill((await py.stats()).memory.peers.find(each => each.name === 'queues_app.py').pid, 'SIGTERM')
    await until('the host has gone', () => bus.stats().then(({ host }) => host === null), patience)
    for (const [doing, operation] of [...operations, ...operations]) {
      await assert.rejects(operation, error => {
        assert.ok(error instanceof HostLostError)
        assert.match(error.message, new RegExp(`^${doing} failed: `))
        assert.doesNotMatch(error.message, /isthmus\./)
        return true
      })
    }
  })
}

test('a program can end when nobody waits for a message', async () => {
  const ended = await run(
    `import { spawn } from 'isthmus'
     const py = await spawn(${JSON.stringify(app)})
     const q = py.queue('q')
     await q.put(1)
     await q.put(2)
     const message = await q.get()
     const subscription = py.topic('t').subscribe()
     await subscription.ready
     console.log(message.value)`,
  )
  assert.deepEqual([ended.code, ended.out, ended.err], [0, '1\n', ''])
})

test('an abort rejects with its own reason, also when that speaks of a lost host', async t => {
  const q = (await start(t)).queue('q')
  const controller = new AbortController()
  const getting = q.get({ signal: controller.signal })
  const reason = new HostLostError('mine')
  setTimeout(() => controller.abort(reason), 20)
  await assert.rejects(getting, error => error === reason)
})

test('a consumer that nobody has any more gives back what it holds', async t => {
  const py = await start(t)
  await py.queue('q').put(1)
  await (async () => {
    const message = await py.queue('q').get()
    assert.equal(message.value, 1)
  })()
  const other = (await join(t, py)).queue('q').get({ timeout: patience })
  await until('the garbage collector has found it', async () => {
    await collectGarbage()
    return (await py.queue('q').stats()).redelivered === 1
  })
  assert.equal((await other).deliveries, 2)
})

// --- topics ----------------------------------------------------------------------------------------------------

test('each message of a topic goes to all who have subscribed', async t => {
  const py = await start(t)
  const other = await join(t, py)
  const topic = py.topic('t')
  await topic.publish('before')
  const subscriptions = [py.topic('t').subscribe(), other.topic('t').subscribe()]
  await Promise.all(subscriptions.map(each => each.ready))
  const publishing = Promise.all(range(500).map(i => topic.publish(i)))
  const reading = subscriptions.map(async subscription => {
    const values = []
    for await (const value of subscription) {
      values.push(value)
      if (value === 499) break
    }
    assert.deepEqual(values, range(500))
    assert.equal(subscription.dropped, 0)
    assert.deepEqual(await subscription.next(), { done: true, value: undefined })
  })
  await Promise.all([publishing, ...reading])
  await topic.publish('after')
})

test('publishers wait for a full subscriber, or the oldest messages are dropped and counted', async t => {
  const py = await start(t)
  const topic = py.topic('t')
  const lossy = topic.subscribe({ onFull: 'drop-oldest', depth: 3 })
  for (const i of range(10)) await topic.publish(i)
  const slow = (await join(t, py)).topic('t').subscribe({ depth: 2 })
  await slow.ready
  for (const i of range(4)) await topic.publish(10 + i)
  await assert.rejects(topic.publish('withdrawn', { timeout: 20 }), /the topic 't' had no room within 20 ms/)
  await py.queue('q').stats()
  const later = topic.publish(14)
  const next = async subscription => (await subscription.next()).value
  assert.equal(await next(slow), 10)
  await later
  assert.deepEqual([await next(slow), await next(slow), await next(slow), await next(slow)], [11, 12, 13, 14])
  assert.deepEqual([await next(lossy), await next(lossy), await next(lossy)], [0, 1, 2])
  assert.equal(lossy.dropped, 0)
  assert.deepEqual([await next(lossy), await next(lossy), await next(lossy)], [12, 13, 14])
  assert.equal(lossy.dropped, 9)
  const blocked = [15, 16, 17, 18, 19].map(i => topic.publish(i))
  await slow.close()
  await Promise.all(blocked)
})

// --- memory ------------------------------------------------------------------------------------------------------

test('a frame that passes four stages is never copied, and is given back in the end', async t => {
  const py = await start(t)
  const stages = py.queue('stages')
  await py.call('add_frames', [py.name, 'decoded', 'seen'])
  await py.call('add_frames', [py.name, 'seen', 'written'])
  const [decoded, written] = [py.queue('decoded'), py.queue('written')]
  const leased = async () => (await py.stats()).memory.leased
  await decoded.stats()
  await collectGarbage()
  const before = await leased()
  const { bytes_copied: copied } = (await py.stats()).self
  for (const i of range(5)) {
    const frame = py.alloc(Uint8Array, 1 << 20)
    frame.fill(i)
    await decoded.put({ frame, passed: 0 })
    py.release(frame)
    const message = await written.get()
    assert.equal(message.value.passed, 2)
    assert.equal(message.value.frame[12345], i)
    const keeper = (await py.stats()).memory.peers.find(({ name }) => name === 'isthmus queues')
    assert.ok(keeper.leased >= 1 << 20, 'the keeper has a claim on what is not acknowledged')
    assert.equal(keeper.owned, 0, 'a copy of it would be its own')
    py.release(message.value.frame)
    message.ack()
  }
  for (const queue of [decoded, py.queue('seen')]) {
    await queue.put(null)
    const message = await stages.get()
    message.ack()
  }
  await until('all is given back', async () => (await leased()) <= before, patience)
  assert.deepEqual(await py.call('bytes_copied'), [0, 0])
  assert.equal((await py.stats()).self.bytes_copied, copied)
  assert.equal((await py.stats()).host.bytes_copied, 0)
})

test('a time that is none is refused, and one that no timer can wait for is no limit', async t => {
  const py = await start(t)
  const q = py.queue('times')
  for (const timeout of [-1, Number.NaN]) {
    await assert.rejects(async () => q.put(1, { timeout }), RangeError)
    await assert.rejects(async () => q.get({ timeout }), RangeError)
  }
  const got = q.get({ timeout: Number.POSITIVE_INFINITY })
  await q.put(1, { timeout: 2 ** 40 })
  const message = await got
  assert.equal(message.value, 1)
  message.ack()
})
