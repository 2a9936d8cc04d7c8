// The event loop, and the processor, while Python computes, is stopped, or rests.

import assert from 'node:assert/strict'
import { freemem } from 'node:os'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { connect, IsthmusError, spawn, TimeoutError } from 'isthmus'
import {
  activity,
  ownTime,
  privateDirectory,
  segmentBytes,
  serve,
  sleep,
  start,
  status,
} from '../cross/lib.mjs'

privateDirectory()
const app = fileURLToPath(new URL('host.py', import.meta.url))
const child = fileURLToPath(new URL('child.mjs', import.meta.url))

const span = 100

/** For each tenth of a second until `end` is settled: the longest time between two turns of the event loop. In milliseconds. */
function longestTurns(end) {
  let going = true
  const stopped = end.finally(() => {
    going = false
  })
  return new Promise(resolve => {
    const longest = []
    const began = performance.now()
    let last = ownTime()
    const turn = () => {
      const i = Math.floor((performance.now() - began) / span)
      const now = ownTime()
      if (!(now - last <= longest[i])) longest[i] = now - last
      last = now
      if (going) setImmediate(turn)
      else resolve(stopped.then(() => longest))
    }
    setImmediate(turn)
  })
}

/** Likewise: how much later than due a timer of 1 ms fired at worst. Here the loop sleeps between the turns. */
async function latestTimers(end) {
  let going = true
  const stopped = end.finally(() => {
    going = false
  })
  const latest = []
  const began = performance.now()
  while (going) {
    const i = Math.floor((performance.now() - began) / span)
    const due = ownTime() + 2 // Node counts whole milliseconds
    await sleep(1)
    latest[i] = Math.max(latest[i] ?? 0, ownTime() - due)
  }
  await stopped
  return latest
}

const worst = delays => delays.reduce((most, each) => Math.max(most, each ?? 0), 0)

// A virtual machine that gets no processor also delays the loop, now and then, by more than 2 ms. What the library does to it,
// it does in every try at the same place: so each tenth of a second counts with the best of its tries.
async function atMost(limit, tries, t, measure) {
  const seen = []
  let best = {}
  for (let i = 0; i < tries; i++) {
    const delays = await measure()
    seen.push(worst(delays))
    const length = Math.min(delays.length, best.length ?? Infinity)
    best = Array.from({ length }, (_, k) => Math.min(delays[k] ?? Infinity, best[k] ?? Infinity))
    if (worst(best) <= limit) break
  }
  t.diagnostic(
    `${seen.map(ms => ms.toFixed(2)).join(', ')} ms; the best of each span: ${worst(best).toFixed(2)} ms`,
  )
  assert.ok(worst(best) <= limit, `${worst(best)} ms`)
}

for (const [what, probe] of Object.entries({ 'the turns': longestTurns, 'the timers': latestTimers })) {
  test(`a host that computes for a second with the GIL held delays ${what} of the loop by at most 2 ms`, async t => {
    const py = await spawn(app)
    await py.call('compute', [0.01])
    await atMost(2, 8, t, async () => {
      const call = py.call('compute', [1])
      const delay = await probe(call)
      assert.equal(await call, true, 'the host was not taken for dead')
      return delay
    })
    await py.close()
  })

  test(`… and ${what} also while other calls are made`, async t => {
    const py = await spawn(app)
    await py.call('compute', [0.01])
    await atMost(2, 8, t, async () => {
      const call = py.call('compute', [1])
      const others = []
      const timer = setInterval(() => {
        others.push(py.call('add', [others.length, 1]))
        others.push(
          py.call('add', [1, 2], { timeout: 5 }).catch(error => assert.ok(error instanceof TimeoutError)),
        )
        others.push(py.call('echo', [new Float64Array(1000)]).then(x => x.length))
        py.post('add', [1, 2])
      }, 5)
      const delay = await probe(call)
      clearInterval(timer)
      assert.equal(await call, true)
      const results = await Promise.all(others)
      assert.ok(results.length > 50)
      for (let i = 0; i < results.length; i += 3)
        assert.deepEqual([results[i], results[i + 2]], [i + 1, 1000])
      return delay
    })
    await py.close()
  })
}

test('starting and stopping a host does not hold the loop up', async t => {
  await atMost(10, 8, t, async () => {
    let py
    const starting = spawn(app).then(started => {
      py = started
    })
    const up = await longestTurns(starting)
    const down = await longestTurns(py.close())
    return [...up, ...down]
  })
})

test('a host that is stopped for two seconds is not dead', async t => {
  const py = await spawn(app)
  const pid = await py.call('pid')
  const calls = [py.call('sleep', [0.1]), py.call('sleep', [0.1])]
  process.kill(pid, 'SIGSTOP')
  for (let i = 0; i < 100; i++) calls.push(py.call('add', [i, 1]))
  let settled = 0
  for (const call of calls)
    call.then(
      () => settled++,
      () => settled++,
    )
  const timedOut = assert.rejects(py.call('add', [1, 2], { timeout: 100 }), TimeoutError)
  const delay = worst(await longestTurns(sleep(2000)))
  t.diagnostic(`the longest turn took ${delay.toFixed(2)} ms`)
  await timedOut
  assert.equal(settled, 0)
  assert.ok(delay < 100, 'the loop went on')
  process.kill(pid, 'SIGCONT')
  assert.deepEqual(await Promise.all(calls), [0.1, 0.1, ...Array.from({ length: 100 }, (_, i) => i + 1)])
  await py.close()
})

test('joining a bus whose host is stopped holds nothing up, and succeeds when it goes on', async () => {
  const host = await serve(app, 'stopped')
  const first = await connect('stopped')
  process.kill(host.pid, 'SIGSTOP')
  const joining = connect('stopped')
  const delay = worst(await longestTurns(sleep(500)))
  assert.ok(delay < 100, `the longest turn took ${delay} ms`)
  const closing = first.close()
  assert.ok(worst(await longestTurns(sleep(500))) < 100)
  process.kill(host.pid, 'SIGCONT')
  await closing
  const py = await joining
  assert.equal(await py.call('add', [1, 2]), 3)
  await py.close()
  await host.stop()
})

test('closing while the host computes with the GIL held does not hold the loop up', async t => {
  await atMost(20, 3, t, async () => {
    const py = await spawn(app)
    const call = assert.rejects(py.call('compute', [3]), IsthmusError)
    await sleep(100)
    const started = performance.now()
    const delay = await longestTurns(py.close())
    await call
    assert.ok(performance.now() - started < 5000)
    return delay
  })
})

for (const [what, isAllocating] of [
  ['turns', false],
  ['turns and allocates', true],
]) {
  test(`while another thread finds and maps the pages of a large array, the loop ${what}`, async t => {
    const bytes = Math.max(256 << 20, Math.min(1.5 * 2 ** 30, freemem() / 4))
    const py = await spawn(app, { memory: bytes * 2, quota: bytes * 2 })
    const most = 256 // arrays of a chunk each
    const own = 1 << 20
    const held = []
    const pages = () => [segmentBytes(process.pid), status(process.pid, 'RssShmem') * 1024]
    let last = pages()
    let going = true
    let turns = 0
    const grown = [0, 0] // in how many turns more pages were found and mapped
    const turn = () => {
      turns++
      if (isAllocating && held.length < most) held.push(py.alloc(Uint8Array, 256 << 10))
      const now = pages()
      for (const i of [0, 1]) if (now[i] - last[i] > (isAllocating ? own : 0)) grown[i]++
      last = now
      if (going) setImmediate(turn)
    }
    setImmediate(turn)
    const array = await py.allocAsync(Uint8Array, bytes)
    going = false
    t.diagnostic(`${turns} turns, in which pages were found ${grown[0]} times, and mapped ${grown[1]} times`)
    assert.equal(array.length, bytes)
    assert.ok(pages()[1] > 0.95 * bytes)
    assert.ok(Math.min(...grown) >= 20)
    await py.close()
  })
}

test('an idle bus sleeps', async t => {
  const program = start(process.execPath, [child, 'rest'])
  const host = Number((await program.line()).split(' ')[1])
  await program.line()
  await sleep(1500)
  const sides = { Node: program.pid, Python: host }
  const before = Object.values(sides).map(activity)
  await sleep(2000)
  for (const [i, [side, pid]] of Object.entries(sides).entries()) {
    const now = activity(pid)
    const [busyMs, sleeps] = [now.busyMs - before[i].busyMs, now.sleeps - before[i].sleeps]
    t.diagnostic(`${side} woke ${sleeps} times in 2 s, for ${busyMs.toFixed(2)} ms`)
    assert.ok(sleeps <= 60, `${side} woke ${sleeps} times: a few looks a second are enough`)
    assert.ok(busyMs <= 500, `${side} used ${busyMs} ms: whoever polls has all of a processor`)
  }
  program.say('wake up')
  assert.equal(await program.line(), '3')
  assert.equal((await program.ended).code, 0)
})
