import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { inspect } from 'node:util'
import {
  BusFullError,
  ConnectError,
  connect,
  HostLostError,
  IsthmusError,
  kwargs,
  NotExportedError,
  PythonError,
  spawn,
  TimeoutError,
} from 'isthmus'
import { app, delay, until } from './support.mjs'

let py
before(async () => {
  py = await spawn(app, { memory: '64MiB' })
})
after(() => py.close())

test('a thousand calls in flight are each answered with their own result', async () => {
  const answers = await Promise.all(Array.from({ length: 1000 }, (_, i) => py.call('add', [i, i])))
  assert.deepEqual(
    answers,
    Array.from({ length: 1000 }, (_, i) => 2 * i),
  )
})

test('more calls than fit into the ring wait their turn', async () => {
  const text = 'x'.repeat(3000)
  const answers = await Promise.all(Array.from({ length: 5000 }, (_, i) => py.call('same', [[i, text]])))
  answers.forEach((answer, i) => {
    assert.deepEqual(answer, [i, text])
  })
})

test('exports are functions, and kwargs come last', async () => {
  assert.equal(await py.exports.add(1, 2), 3)
  assert.deepEqual(await py.exports.named(1, kwargs({ a: 2 })), [[1], { a: 2 }])
  assert.equal(py.exports.add, py.exports.add)
  assert.equal(await py.exports, py.exports)
  assert.throws(() => {
    py.exports.add = 1
  }, TypeError)
})

test('callMany resolves to the results in order', async () => {
  assert.deepEqual(
    await py.callMany('add', [
      [1, 2],
      [3, 4],
    ]),
    [3, 7],
  )
  assert.deepEqual(await py.callMany('add', []), [])
  const many = Array.from({ length: 5000 }, (_, i) => [i, 1])
  assert.deepEqual(
    await py.callMany('add', many),
    many.map(([i]) => i + 1),
  )
})

test('callMany rejects with the first failure, or has the failures in their places', async () => {
  const calls = [
    [1, 2],
    ['a', 1],
    [3, 4],
    [Symbol('x'), 1],
  ]
  await assert.rejects(py.callMany('add', calls.slice(0, 3)), { type: 'TypeError' })
  const [three, wrong, seven, impossible] = await py.callMany('add', calls, { settled: true })
  assert.deepEqual([three, seven], [3, 7])
  assert.ok(wrong instanceof PythonError)
  assert.equal(impossible.code, 'ERR_ISTHMUS_ENCODE')
})

test('callMany makes no call when what gives the calls fails', async () => {
  const calls = (function* () {
    yield ['made']
    yield ['made too']
    throw new RangeError('no more')
  })()
  await assert.rejects(py.callMany('post', calls), RangeError)
  await assert.rejects(py.callMany('no_such', 5), TypeError)
  assert.deepEqual(await py.call('take_posted'), [])
})

test('post waits for nothing, and closing delivers what was posted', async () => {
  assert.equal(py.post('post', ['first']), undefined)
  const other = await connect(py.name)
  for (let i = 0; i < 2000; ++i) other.post('post', [i])
  await other.close()
  let posted = []
  await until('everything has arrived', async () => {
    posted = posted.concat(await py.call('take_posted'))
    return posted.length === 2001
  })
  assert.deepEqual(
    posted.filter(value => value !== 'first'),
    Array.from({ length: 2000 }, (_, i) => i),
  )
})

test('callSync answers and settles what else arrives meanwhile', async () => {
  const calls = Array.from({ length: 100 }, (_, i) => py.call('add', [i, 1]))
  assert.equal(py.callSync('add', [1, 2]), 3)
  assert.deepEqual(
    await Promise.all(calls),
    Array.from({ length: 100 }, (_, i) => i + 1),
  )
})

test('callSync throws what call rejects with', () => {
  assert.throws(() => py.callSync('fail'), PythonError)
  assert.throws(() => py.callSync('no_such'), NotExportedError)
  assert.throws(() => py.callSync('sleep', [1], { timeout: 20 }), TimeoutError)
  assert.throws(() => py.callSync('add', [1, 2], { signal: AbortSignal.abort(new Error('mine')) }), /mine/)
  assert.equal(py.callSync('add', [1, 2], { timeout: 10_000 }), 3)
})

test('a Python exception arrives with type, message, traceback, arguments and cause', async () => {
  await assert.rejects(py.call('fail', ['so it goes']), error => {
    assert.ok(error instanceof PythonError && error instanceof IsthmusError)
    assert.equal(error.code, 'ERR_ISTHMUS_PYTHON')
    assert.equal(error.type, 'ValueError')
    assert.equal(error.module, 'builtins')
    assert.equal(error.message, "('so it goes', 3)")
    assert.deepEqual(error.args, ['so it goes', 3])
    assert.match(error.traceback, /app\.py", line \d+, in fail/)
    assert.match(error.stack, /in fail/)
    assert.ok(error.cause instanceof PythonError)
    assert.equal(error.cause.type, 'KeyError')
    return true
  })
})

test('a name that is not exported is an error that tells what is close', async () => {
  await assert.rejects(py.call('totals'), error => {
    assert.ok(error instanceof NotExportedError)
    assert.equal(error.code, 'ERR_ISTHMUS_NOT_EXPORTED')
    assert.deepEqual(error.close, ['total'])
    assert.match(error.message, /'totals'.*'total'/)
    return true
  })
})

/** Has Python do nothing else, until it is let go. */
function hold(how = 'hold', options) {
  const flag = py.alloc(Int32Array, 1)
  return { call: py.call(how, [flag], options), letGo: () => Atomics.store(flag, 0, 1) }
}

test('a call that takes too long rejects before it ends, and the bus goes on', async () => {
  const { call, letGo } = hold('hold', { timeout: 50 })
  await assert.rejects(call, error => {
    assert.ok(error instanceof TimeoutError)
    assert.equal(error.code, 'ERR_ISTHMUS_TIMEOUT')
    assert.match(error.message, /'hold'.*50 ms/)
    return true
  })
  letGo()
  assert.equal(await py.call('add', [1, 2]), 3)
})

test('a call that was too late is not begun', async () => {
  await py.call('take_posted')
  const { call, letGo } = hold()
  await assert.rejects(py.call('post', ['late'], { timeout: 20 }), TimeoutError)
  letGo()
  await call
  assert.deepEqual(await py.call('take_posted'), [])
})

test('an abort rejects with the reason of the signal', async () => {
  const reason = { any: 'reason' }
  const controller = new AbortController()
  const call = py.call('sleep', [0.3], { signal: controller.signal })
  setTimeout(() => controller.abort(reason), 20)
  await assert.rejects(call, error => error === reason)
  await assert.rejects(py.call('add', [1, 2], { signal: controller.signal }), error => error === reason)
  await assert.rejects(py.call('sleep', [0.3], { signal: AbortSignal.timeout(20) }), { name: 'TimeoutError' })
  assert.equal(await py.call('add', [1, 2], { signal: new AbortController().signal }), 3)
})

test('an answer that nobody waits for is let go, with the memory that came with it', async () => {
  const held = async () => {
    const { self } = await py.stats()
    return self.leases_taken - self.leases_released
  }
  const before = await held()
  for (let i = 0; i < 20; ++i) {
    await assert.rejects(py.call('counting', [100_000], { signal: AbortSignal.abort() }))
    const controller = new AbortController()
    const call = py.call('counting', [100_000], { signal: controller.signal })
    controller.abort()
    await assert.rejects(call)
  }
  assert.equal(await py.call('add', [1, 2]), 3)
  await until('nothing is held', async () => (await held()) <= before)
})

test('the event loop turns while Python computes with the GIL held', async () => {
  const { call, letGo } = hold('compute_until')
  const calls = []
  for (let i = 0; i < 20; ++i) {
    calls.push(py.call('add', [i, i]))
    await delay(10)
  }
  letGo()
  await Promise.all([call, ...calls])
})

test('arguments larger than the memory of the bus are refused with a sentence, and the bus goes on', async () => {
  await assert.rejects(py.call('total', [new Float64Array(20_000_000)]), error => {
    assert.ok(error instanceof BusFullError)
    assert.equal(error.code, 'ERR_ISTHMUS_BUS_FULL')
    assert.match(error.message, /memory/)
    return true
  })
  assert.throws(() => py.alloc(Float64Array, 20_000_000), BusFullError)
  assert.equal(await py.call('total', [new Float64Array(100_000).fill(1)]), 100_000)
})

test('a result larger than the memory of the bus is an error too', async () => {
  await assert.rejects(py.call('same', [['x'.repeat(1000), 'y'.repeat(70_000_000)]]), IsthmusError)
  assert.equal(await py.call('add', [1, 2]), 3)
})

test('statistics count what went over the bus', async () => {
  const before = await py.stats()
  await Promise.all(Array.from({ length: 500 }, (_, i) => py.call('add', [i, 1])))
  const after = await py.stats()
  assert.equal(after.self.calls - before.self.calls, 500)
  assert.equal(after.host.calls - before.host.calls, 500)
  assert.ok(after.host.gil_takes > before.host.gil_takes)
  for (const name of ['frames_sent', 'frames_received', 'bytes_copied', 'wakes', 'spins', 'batches']) {
    assert.equal(typeof after.self[name], 'number', name)
  }
})

test('a bus that nobody serves is an error that says what to run', async () => {
  await assert.rejects(connect('nobody-serves-this'), error => {
    assert.ok(error instanceof ConnectError)
    assert.equal(error.code, 'ERR_ISTHMUS_CONNECT')
    assert.match(error.message, /python -m isthmus serve app\.py --bus nobody-serves-this/)
    return true
  })
  await assert.rejects(connect('../elsewhere'), ConnectError)
})

test('after closing, calls are refused and those in flight have ended', async () => {
  const other = await connect(py.name)
  const call = other.call('sleep', [0.3])
  const refused = assert.rejects(call, { code: 'ERR_ISTHMUS_CLOSED' })
  await other.close()
  await refused
  await other.close()
  await assert.rejects(other.call('add', [1, 2]), { code: 'ERR_ISTHMUS_CLOSED' })
  assert.throws(() => other.callSync('add', [1, 2]), { code: 'ERR_ISTHMUS_CLOSED' })
  assert.throws(() => other.post('post', [1]), { code: 'ERR_ISTHMUS_CLOSED' })
  assert.throws(() => other.alloc(Uint8Array, 10), { code: 'ERR_ISTHMUS_CLOSED' })
  await assert.rejects(other.stats(), { code: 'ERR_ISTHMUS_CLOSED' })
  assert.equal(await py.call('add', [1, 2]), 3)
})

test('several connections of one isolate do not disturb each other', async () => {
  const others = await Promise.all(Array.from({ length: 8 }, () => connect(py.name)))
  const sums = await Promise.all(
    others.flatMap(other => Array.from({ length: 50 }, (_, i) => other.call('add', [i, 1]))),
  )
  assert.deepEqual(
    sums,
    others.flatMap(() => Array.from({ length: 50 }, (_, i) => i + 1)),
  )
  assert.deepEqual(
    others.map(other => other.callSync('add', [1, 1])),
    others.map(() => 2),
  )
  await Promise.all(others.map(other => other.close()))
})

test('a host that is lost rejects what is in flight, and it is known how it ended', async () => {
  for (const [call, how] of [
    [['die'], /killed by SIGKILL/],
    [['leave', [7]], /ended with exit code 7/],
  ]) {
    const doomed = await spawn(app)
    const calls = [doomed.call('sleep', [0.05]), doomed.call(...call), doomed.call('add', [1, 2])]
    const [, ...ended] = await Promise.allSettled(calls)
    for (const { reason } of ended) {
      assert.ok(reason instanceof HostLostError)
      assert.equal(reason.code, 'ERR_ISTHMUS_HOST_LOST')
      assert.match(reason.message, /^'\w+' was not answered: the host /)
    }
    await until('it is known', () =>
      doomed.call('add', [1, 2]).catch(error => error instanceof HostLostError && how.test(error.message)),
    )
    assert.throws(() => doomed.callSync('add', [1, 2]), {
      name: 'HostLostError',
      message:
        /^'add' was not sent: the host (was killed by SIGKILL|ended with exit code 7): spawn it again$/,
    })
    assert.throws(() => doomed.post('post', [1]), /^HostLostError: 'post' was not sent: the host /)
    await doomed.close()
  }
})

test('who has connected is told which host is lost, and how, and what to do', async () => {
  for (const call of [['die'], ['leave', [0]]]) {
    const doomed = await spawn(app)
    const guest = await connect(doomed.name)
    const pid = await guest.call('pid')
    // Which of the two is noticed first, the peer's end or the broker's, is for the system to say.
    await assert.rejects(guest.call(...call), {
      name: 'HostLostError',
      message: new RegExp(
        `^'${call[0]}' was not answered: the host app\\.py \\(pid ${pid}\\) (has died|is gone, and the bus with it)$`,
      ),
    })
    const refused = {
      name: 'HostLostError',
      message: `'add' was not sent: nobody serves the bus '${guest.name}' any more: connect again once it is served`,
    }
    await until('the end of the bus is known', async () => {
      const { message } = await guest.call('add', [1, 2]).catch(error => error)
      return message !== "'add' was not sent: nobody serves it at the moment"
    })
    assert.throws(() => guest.callSync('add', [1, 2]), refused)
    await assert.rejects(guest.call('add', [1, 2]), refused)
    await Promise.all([guest.close(), doomed.close()])
  }
})

test('a caller is told that who was to answer has left the bus', async () => {
  const owner = await connect(py.name)
  const begun = new Promise(resolve => {
    owner.export('left.waiting', () => {
      resolve()
      return new Promise(() => {})
    })
  })
  const call = py.call('left.waiting')
  await begun
  await Promise.all([
    assert.rejects(call, {
      name: 'HostLostError',
      message: new RegExp(
        `^'left.waiting' was not answered: the host .* \\(pid ${process.pid}\\) has left the bus$`,
      ),
    }),
    owner.close(),
  ])
})

test('a connection shows its name, and what it knows of exports without asking', async () => {
  const other = await spawn(app)
  other.export('mine', () => 1)
  const shown = inspect(other)
  assert.match(shown, new RegExp(`^Bus \\{\\s+name: '${other.name}',\\s+exports: \\[`))
  for (const name of ['add', 'sleep', 'total']) assert.match(shown, new RegExp(`'${name}'`))
  assert.doesNotMatch(shown, /'mine'/)
  assert.equal(inspect({ other }, { depth: 0 }), '{ other: [Bus] }')
  const { exports } = other
  assert.match(inspect(exports), new RegExp(`^Exports of '${other.name}' \\[\\s+'add',`))
  assert.equal(inspect({ exports }, { depth: 0 }), '{ exports: [Exports] }')
  await other.close()
  assert.equal(inspect(other), `Bus { name: '${other.name}', closed: true }`)
  assert.equal(inspect(exports), `Exports of '${other.name}' (closed)`)
})

// The best of three: what else the machine does may hold up a process for longer than that.
test('arguments that are no array, and times that are none, are refused', async () => {
  await assert.rejects(py.call('add', 5), TypeError)
  await assert.rejects(py.call('add', 'ab'), TypeError)
  await assert.rejects(py.call('add', [1, 2], { timeout: -1 }), RangeError)
  await assert.rejects(py.call('add', [1, 2], { timeout: Number.NaN }), RangeError)
  await assert.rejects(py.call('', [1, 2]), NotExportedError)
  await assert.rejects(py.call(5, []), TypeError)
  assert.equal(await py.call('add', [1, 2], { timeout: Number.POSITIVE_INFINITY }), 3)
  assert.equal(await py.call('add', [1, 2], { timeout: 0 }), 3)
  assert.equal(py.callSync('add', [1, 2], { timeout: Number.POSITIVE_INFINITY }), 3)
})

test('callSync ends when the host dies', async () => {
  const doomed = await spawn(app)
  assert.throws(() => doomed.callSync('die'), HostLostError)
  await doomed.close()
})
