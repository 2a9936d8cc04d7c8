// Functions of JavaScript that Python calls, and of Python that JavaScript calls, inside of one another.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { connect, PythonError, spawn, TimeoutError } from 'isthmus'
import { collectGarbage, delay, until } from './support.mjs'

let py
before(async () => {
  py = await spawn(new URL('./callbacks.py', import.meta.url), { memory: '64MiB' })
})
after(() => py.close())

test('Python calls a function of JavaScript, and waits for its promise', async () => {
  assert.equal(await py.call('apply', [(a, b) => a + b, 1, 2]), 3)
  assert.equal(await py.call('apply', [async a => a * 2, 4]), 8)
  assert.equal(await py.call('apply_in_thread', [async a => a + 1, 4]), 5)
  assert.deepEqual(await py.call('apply', [(...args) => args, 1], { kwargs: { a: 2 } }), [1, { a: 2 }])
})

test('a coroutine awaits it, and many at once', async () => {
  assert.equal(await py.call('apply_later', [async x => x + 1, 1]), 2)
  const values = Array.from({ length: 500 }, (_, i) => i)
  assert.deepEqual(
    await py.call('apply_together', [async x => x * 2, values]),
    values.map(x => x * 2),
  )
})

test('callSync serves the callbacks of its own call', () => {
  assert.equal(py.callSync('apply', [x => x + 1, 1]), 2)
  assert.equal(py.callSync('apply', [x => py.callSync('apply', [y => y * 10, x]), 4]), 40)
  assert.throws(() => py.callSync('apply', [async x => x, 1]), /blocked in callSync/)
})

test('callSync performs no callback of another call, which may well be a promise', async () => {
  const order = []
  const other = py.call('apply', [
    async x => {
      order.push('the other')
      await delay(1)
      return x + 1
    },
    1,
  ])
  const own = x => {
    order.push('its own')
    return x * 10
  }
  assert.equal(py.callSync('apply', [own, 2]), 20)
  assert.deepEqual(order, ['its own'])
  assert.equal(await other, 2)
  assert.deepEqual(order, ['its own', 'the other'])
})

test('a callback of another call waits through a callSync that is nested, fails, or takes too long', async () => {
  for (const [what, attempt] of Object.entries({
    nested: () => assert.equal(py.callSync('apply', [x => py.callSync('apply', [y => y + x, 1]), 2]), 3),
    fails: () => assert.throws(() => py.callSync('fail', ['no']), PythonError),
    'fails in a callback': () => {
      const fails = () => {
        throw new RangeError('mine')
      }
      assert.throws(() => py.callSync('apply', [fails]), RangeError)
    },
    'takes too long': () => assert.throws(() => py.callSync('nap', [0.1], { timeout: 10 }), TimeoutError),
  })) {
    let isBlocked = true
    const other = py.call('apply', [
      async x => {
        assert.ok(!isBlocked, what)
        await delay(1)
        return x + 1
      },
      1,
    ])
    attempt()
    isBlocked = false
    assert.equal(await other, 2, what)
  }
})

test('what another call takes of a stream waits while its isolate is blocked', async () => {
  let isBlocked = false
  let made = 0
  const log = []
  function* promises() {
    try {
      for (;;) {
        if (isBlocked) log.push(`made ${made} while it was blocked`)
        yield Promise.resolve(made++)
      }
    } finally {
      log.push(isBlocked ? 'closed while it was blocked' : 'closed')
    }
  }
  for (let i = 0; i < 20; ++i) {
    const taken = py.call('take_in_thread', [promises(), 3000])
    const enough = made + 1100
    await until('some were taken', () => made > enough)
    isBlocked = true
    py.callSync('nap', [0.02])
    isBlocked = false
    assert.equal((await taken).length, 3000)
  }
  await until('all were closed', () => log.length >= 20)
  assert.deepEqual(log, Array(20).fill('closed'))
})

test('a connection that is closed in a callback of callSync ends it', async () => {
  const other = await connect(py.name)
  const closes = () => void other.close()
  assert.throws(() => other.callSync('apply', [closes]), { code: 'ERR_ISTHMUS_CLOSED' })
  await other.close()
})

test('callSync keeps nothing of the callbacks that it has served', () => {
  const used = []
  const measure = i => {
    if (i % 20_000 !== 10_000) return
    globalThis.gc()
    used.push(process.memoryUsage().heapUsed)
  }
  py.callSync('apply_often', [measure, 50_001])
  const [early, , late] = used
  assert.ok(late - early < 100_000, `${late - early} bytes more`)
})

test('calls go back and forth fifty deep, awaited and blocking', async () => {
  const later = async n => await py.call('depth', [later, n])
  assert.equal(await py.call('depth', [later, 50]), 50)
  const now = n => py.callSync('depth', [now, n])
  assert.equal(py.callSync('depth', [now, 50]), 50)
})

test('functions come home as themselves', async () => {
  const f = () => 1
  assert.equal(await py.call('same', [f]), f)
  assert.deepEqual((await py.call('same', [{ f: [f] }])).f, [f])
  const adder = await py.call('adder', [5])
  assert.equal(await adder(1), 6)
  assert.equal(await py.call('same', [adder]), adder)
  assert.equal(await py.call('apply', [adder, 2]), 7)
})

test('an exception that passes through JavaScript is the same one again', async () => {
  assert.equal(await py.call('is_same_again', [() => py.call('fail', ['there'])]), true)
  const caught = async () => {
    try {
      await py.call('fail', ['there'])
    } catch (error) {
      assert.ok(error instanceof PythonError)
      throw error
    }
  }
  assert.equal(await py.call('is_same_again', [caught]), true)
})

test('an error that passes through Python is the same one again', async () => {
  const mine = new RangeError('mine')
  const fails = () => {
    throw mine
  }
  await assert.rejects(py.call('apply', [fails]), error => error === mine)
  await assert.rejects(py.call('apply_later', [async () => fails()]), error => error === mine)
  assert.throws(
    () => py.callSync('apply', [fails]),
    error => error === mine,
  )
  assert.deepEqual(await py.call('type_of_failure', [fails]), ['JsError', 'RangeError: mine'])
})

test('what a call inside of one that fails has sent stays, and nothing else does', async () => {
  const f = () => 1
  const fails = { code: 'ERR_ISTHMUS_ENCODE' }
  let inner
  const calls = {
    get inner() {
      inner = py.call('same', [f])
      return null
    },
  }
  await assert.rejects(py.call('same', [[f, calls, Symbol('fails')]]), fails)
  assert.equal(await inner, f)
  const unsent = await (async () => {
    const g = () => 2
    const failsToo = {
      get inner() {
        inner = assert.rejects(py.call('same', [[g, Symbol('fails')]]), fails)
        return null
      },
    }
    await assert.rejects(py.call('same', [[g, failsToo, g, Symbol('fails')]]), fails)
    await inner
    return new WeakRef(g)
  })()
  await until('it was collected', async () => {
    await collectGarbage()
    return unsent.deref() === undefined
  })
})

test('functions that Python has dropped are collected', async () => {
  const made = await (async () => {
    const references = []
    for (let i = 0; i < 500; ++i) {
      const f = () => i
      references.push(new WeakRef(f))
      py.post('hold', [f])
    }
    return references
  })()
  await py.call('same', [1])
  await collectGarbage()
  assert.ok(made.every(each => each.deref() !== undefined))
  await py.call('drop')
  await until('they were collected', async () => {
    await collectGarbage()
    return made.every(each => each.deref() === undefined)
  })
})
