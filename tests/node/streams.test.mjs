import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  connect,
  HostLostError,
  isRemote,
  JsError,
  NotExportedError,
  PythonError,
  spawn,
  TimeoutError,
} from 'isthmus'
import { app, py } from './objects.mjs'
import { collectGarbage, delay, until } from './support.mjs'

async function taken(stream, most = Number.POSITIVE_INFINITY) {
  const items = []
  for await (const item of stream) {
    items.push(item)
    if (items.length === most) break
  }
  return items
}

const first = n => Array.from({ length: n }, (_, i) => i)

test('a generator is an async iterable', async () => {
  assert.deepEqual(await taken(py.stream('count', [5])), [0, 1, 2, 3, 4])
  assert.deepEqual(await taken(py.stream('count', [0])), [])
  assert.deepEqual(await taken(py.stream('count', [10_000])), first(10_000))
  assert.deepEqual(await taken(py.stream('pair')), [1, 'two', null, [3], { four: 4 }])
  assert.deepEqual(await taken(py.stream('count', [], { kwargs: { n: 2 } })), [0, 1])
})

test('an async generator is an async iterable', async () => {
  assert.deepEqual(await taken(py.stream('ticks', [50])), first(50))
})

test('items come as soon as they are there', async () => {
  const flag = py.alloc(Int32Array, 1)
  const stream = py.stream('two', [flag])
  assert.deepEqual(await stream.next(), { done: false, value: 1 })
  Atomics.store(flag, 0, 1)
  assert.deepEqual(await taken(stream), [2])
})

test('a generator that was called for is a stream, too', async () => {
  const stream = await py.call('count', [3])
  assert.deepEqual(await taken(stream), [0, 1, 2])
})

test('nothing is called before the first item is asked for', async () => {
  const stream = py.stream('no_such_export')
  await delay(5)
  await assert.rejects(stream.next(), NotExportedError)
  assert.deepEqual(await stream.next(), { done: true, value: undefined })
  const unused = py.stream('count', [3])
  assert.deepEqual(await unused.return(), { done: true, value: undefined })
  assert.deepEqual(await unused.next(), { done: true, value: undefined })
})

test('an exception arrives after the items before it', async () => {
  const items = []
  await assert.rejects(
    async () => {
      for await (const item of py.stream('count', [2000, 1500])) items.push(item)
    },
    error => error instanceof PythonError && error.type === 'ValueError' && error.message === 'no 1500',
  )
  assert.deepEqual(items, first(1500))
})

test('leaving the loop closes the generator, and waits for that', async () => {
  assert.deepEqual(await taken(py.stream('count', [1_000_000]), 3), [0, 1, 2])
  assert.deepEqual(await py.call('take_events'), ['closed'])
  assert.deepEqual(await taken(py.stream('ticks', [1_000_000]), 3), [0, 1, 2])
  assert.deepEqual(await py.call('take_events'), ['closed'])
})

test('an abandoned stream is closed once it is collected', async () => {
  await (async () => {
    await py.stream('ticks', [1_000_000]).next()
  })()
  await until('the generator is closed', async () => {
    await collectGarbage()
    return (await py.call('take_events')).includes('closed')
  })
})

test('a stream that somebody waits for is not collected', async () => {
  const other = await connect(py.name)
  let goOn
  const mayGoOn = new Promise(resolve => {
    goOn = resolve
  })
  other.export('held_up', async function* () {
    await mayGoOn
    yield 1
  })
  const item = (() => py.stream('held_up').next())()
  for (let i = 0; i < 5; ++i) await collectGarbage()
  goOn()
  assert.deepEqual(await item, { done: false, value: 1 })
  await other.close()
})

test('several consumers may ask at once', async () => {
  const stream = py.stream('ticks', [4])
  const results = await Promise.all([
    stream.next(),
    stream.next(),
    stream.next(),
    stream.next(),
    stream.next(),
  ])
  assert.deepEqual(
    results.map(({ value }) => value),
    [0, 1, 2, 3, undefined],
  )
})

test('a slow consumer holds the producer up', async () => {
  const stream = py.stream('endless', [1000])
  for (let i = 0; i < 10; ++i) await stream.next()
  await delay(100)
  assert.ok((await py.call('how_many')) <= 3000)
  await stream.return()
})

test('aborting and running out of time end a stream', async () => {
  const controller = new AbortController()
  const stream = py.stream('ticks', [1_000_000], { signal: controller.signal })
  await stream.next()
  const reason = new Error('enough')
  controller.abort(reason)
  await assert.rejects(taken(stream), reason)
  await until('the generator is closed', async () => (await py.call('take_events')).length === 1)
  await assert.rejects(taken(py.stream('ticks', [1_000_000, 0.01], { timeout: 50 })), TimeoutError)
  await assert.rejects(taken(py.stream('count', [1], { signal: AbortSignal.abort(reason) })), reason)
})

test('a stream ends with its host', async () => {
  const other = await spawn(app)
  const stream = other.stream('ticks', [1_000_000])
  await stream.next()
  other.call('echo', [0]).catch(() => {})
  process.kill(await other.import('os').getpid(), 'SIGKILL')
  await assert.rejects(taken(stream), HostLostError)
  await other.close()
})

test('a million small items come, and none is lost', { timeout: 60_000 }, async t => {
  const started = performance.now()
  let count = 0
  for await (const item of py.stream('count', [1_000_000])) if (item === count) ++count
  assert.equal(count, 1_000_000)
  t.diagnostic(`${Math.round((count / (performance.now() - started)) * 1000)} items per second`)
})

// --- the other way -------------------------------------------------------------------------------------------

async function* numbers(n, log = []) {
  try {
    for (let i = 0; i < n; ++i) yield i
  } finally {
    log.push('closed')
  }
}

test('an async iterable is an iterator in Python', async () => {
  assert.equal(await py.call('total', [numbers(3000)]), 4498500)
  assert.equal(await py.call('total_async', [numbers(3000)]), 4498500)
  assert.deepEqual(await py.call('collect', [numbers(0)]), [])
})

test('a generator and a Web Stream are iterators in Python', async () => {
  const generator = (function* () {
    yield* [1, 2, 3]
  })()
  assert.equal(await py.call('total', [generator]), 6)
  const web = new ReadableStream({
    start(controller) {
      for (const i of [1, 2, 3]) controller.enqueue(i)
      controller.close()
    },
  })
  assert.equal(await py.call('total', [web]), 6)
})

test('closing it in Python closes it here', async () => {
  const log = []
  assert.deepEqual(await py.call('first', [numbers(1_000_000, log), 3]), [0, 1, 2])
  await until('the generator is closed', () => log.length === 1)
  let cancelled = false
  const web = new ReadableStream({
    pull: controller => controller.enqueue(1),
    cancel: () => {
      cancelled = true
    },
  })
  assert.deepEqual(await py.call('first', [web, 2]), [1, 1])
  await until('the stream is cancelled', () => cancelled)
})

test('its error arrives in Python after the items before it', async () => {
  async function* failing() {
    yield 1
    yield 2
    throw new RangeError('no more')
  }
  const [one, two, error] = await py.call('collect', [failing()])
  assert.deepEqual([one, two], [1, 2])
  assert.match(error, /RangeError|no more/)
})

test("an item that can't travel ends the stream, and closes it", async () => {
  const log = []
  async function* source() {
    try {
      yield 1
      yield Symbol('x')
      yield 2
    } finally {
      log.push('closed')
    }
  }
  const items = await py.call('collect', [source()])
  assert.match(items.at(-1), /symbol/)
  assert.deepEqual(log, ['closed'])
})

test('Python is not sent more than it asks for', async () => {
  let made = 0
  async function* endless() {
    for (;;) yield made++
  }
  assert.deepEqual(await py.call('first', [endless(), 1]), [0])
  assert.ok(made <= 4096, `${made} items were made`)
})

test('half a million items go to Python in good time', { timeout: 60_000 }, async () => {
  assert.equal(await py.call('total', [numbers(500_000)]), (500_000 * 499_999) / 2)
})

function* some(n, log = []) {
  try {
    for (let i = 0; i < n; ++i) yield i
  } finally {
    log.push('closed')
  }
}

test('a blocked isolate still gives the items of its generators', async () => {
  const log = []
  assert.equal(py.callSync('total', [some(10_000, log)]), 49_995_000)
  assert.deepEqual(py.callSync('first', [some(10_000, log), 2]), [0, 1])
  await until('the generators are closed', () => log.length === 2)
  assert.throws(() => py.callSync('total', [numbers(3)]), /blocked in callSync/)
  assert.throws(() => py.callSync('total', [[Promise.resolve(1)].values()]), /blocked in callSync/)
})

test('a generator may yield promises', async () => {
  const log = []
  function* promises() {
    try {
      yield Promise.resolve(1)
      yield 2
      yield Promise.reject(new RangeError('the third'))
    } finally {
      log.push('closed')
    }
  }
  const [one, two, error] = await py.call('collect', [promises()])
  assert.deepEqual([one, two, log], [1, 2, ['closed']])
  assert.match(error, /the third/)
})

test('what an isolate exports is a stream for another', async () => {
  const other = await connect(py.name)
  try {
    const log = []
    other.export('some', n => some(n, log))
    other.export('numbers', async n => numbers(n, log))
    other.export('list', () => ['a', 'b'])
    other.export('web', () => new Blob(['text']).stream())
    other.export('none', () => 5)
    assert.deepEqual(await taken(py.stream('some', [5000])), first(5000))
    assert.deepEqual(await taken(py.stream('numbers', [5000])), first(5000))
    assert.deepEqual(await taken(py.stream('list')), ['a', 'b'])
    assert.equal(Buffer.concat(await taken(py.stream('web'))).toString(), 'text')
    assert.equal(log.length, 2)
    assert.deepEqual(await taken(py.stream('numbers', [1_000_000]), 2), [0, 1])
    assert.deepEqual(await taken(py.stream('some', [1_000_000]), 2), [0, 1])
    assert.equal(log.length, 4)
    const lent = await py.call('some', [3])
    assert.ok(isRemote(lent))
    assert.deepEqual(await taken(lent), [0, 1, 2])
    await assert.rejects(
      taken(py.stream('none')),
      error => error instanceof JsError && error.type === 'TypeError' && /no stream/.test(error.message),
    )
  } finally {
    await other.close()
  }
})

test('an iterator that gives no result ends its stream with an error, however late', {
  timeout: 20_000,
}, async () => {
  const other = await connect(py.name)
  for (const good of [0, 3000]) {
    let i = 0
    const iterator = {
      next: () => (i < good ? { done: false, value: i++ } : undefined),
      [Symbol.iterator]: () => iterator,
    }
    other.export('no_result', () => iterator)
    const items = []
    await assert.rejects(
      async () => {
        for await (const item of py.stream('no_result')) items.push(item)
      },
      error => error instanceof JsError && error.type === 'TypeError',
    )
    assert.deepEqual(items, first(good))
  }
  await other.close()
})

test('memory stays flat however long a stream is', { timeout: 60_000 }, async () => {
  let count = 0
  let early = 0
  for await (const text of py.stream('endless', [1000])) {
    assert.equal(text.length, 1000)
    if (++count === 20_000) {
      await collectGarbage()
      early = process.memoryUsage().rss
    }
    if (count === 200_000) break
  }
  await collectGarbage()
  const more = process.memoryUsage().rss - early
  assert.ok(more < 64 << 20, `${Math.round(more / 1024)} KiB more`)
})
