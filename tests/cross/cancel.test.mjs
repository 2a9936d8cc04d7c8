// What is cancelled, and in which order both sides come to know of it.

import assert from 'node:assert/strict'
import { beforeEach, describe, test } from 'node:test'
import { TimeoutError } from 'isthmus'
import { languages, meet, meetBefore, privateDirectory, sleep, until } from './lib.mjs'

privateDirectory()

for (const language of languages) {
  describe(`with ${language}`, () => {
    let peer
    let log
    const other = meetBefore(language, () => {
      peer = other.peer
    })
    beforeEach(async () => {
      await peer.call('take_events')
      log = []
    })

    /** What happened over there, once it has come to `last`. */
    async function events(last) {
      const all = []
      await until(`the other side says: ${last}`, 10_000, async () => {
        all.push(...(await peer.call('take_events')))
        return all.includes(last)
      })
      return all
    }
    /**
     * A call that lets no other begin over there until it is let go; what was aborted has as long to be known there as
     * it took to be made.
     */
    function hold() {
      const began = performance.now()
      const flag = peer.alloc(Int32Array, 1)
      const call = logged('hold', peer.call('hold', [flag]))
      return async () => {
        await sleep(Math.max(performance.now() - began, 500))
        Atomics.store(flag, 0, 1)
        return call
      }
    }
    const began = async name => {
      const all = []
      await until(`${name} began`, 10_000, async () => {
        all.push(...(await peer.call('take_events')))
        return all.includes(`${name} began`)
      })
    }
    const logged = (name, call) =>
      call.then(
        () => log.push(`${name} answered`),
        error => {
          log.push(`${name} rejected`)
          return error
        },
      )

    test('ten thousand queued calls that are aborted never run', async () => {
      const before = await peer.call('touched')
      const letGo = hold()
      const controller = new AbortController()
      const reason = new Error('not any more')
      const calls = Array.from({ length: 10_000 }, () =>
        peer.call('touch', [], { signal: controller.signal }),
      )
      const ended = Promise.allSettled(calls)
      controller.abort(reason)
      for (const { reason: each } of await ended) assert.equal(each, reason)
      await letGo()
      assert.equal(await peer.call('touched'), before)
      assert.equal(await peer.call('echo', [1]), 1)
    })

    test('ten thousand queued calls whose time runs out never run', async () => {
      const before = await peer.call('touched')
      const letGo = hold()
      const calls = Array.from({ length: 10_000 }, () => peer.call('touch', [], { timeout: 50 }))
      for (const { reason } of await Promise.allSettled(calls)) assert.ok(reason instanceof TimeoutError)
      await letGo()
      assert.equal(await peer.call('touched'), before)
    })

    test('some of many queued calls are aborted, and the others run', async () => {
      const before = await peer.call('touched')
      const letGo = hold()
      const controller = new AbortController()
      const calls = Array.from({ length: 1000 }, (_, i) =>
        peer.call('touch', [], i % 2 ? { signal: controller.signal } : {}),
      )
      const ended = Promise.allSettled(calls)
      controller.abort()
      await Promise.all([letGo(), ended])
      assert.equal(await peer.call('touched'), before + 500)
    })

    test('aborting a coroutine: the abort, the rejection, then its cancellation', async () => {
      const controller = new AbortController()
      const reason = new Error('enough')
      const call = logged('wait', peer.call('wait', [20], { signal: controller.signal }))
      await began('wait')
      log.push('abort')
      controller.abort(reason)
      assert.equal(await call, reason)
      assert.deepEqual(log, ['abort', 'wait rejected'])
      assert.deepEqual(await events('wait cleaned up'), ['wait cancelled', 'wait cleaned up'])
    })

    test('the time of a coroutine runs out: its rejection and its cancellation', async () => {
      const error = await logged('wait', peer.call('wait', [20], { timeout: 100 }))
      assert.ok(error instanceof TimeoutError, `${error}`)
      assert.deepEqual(await events('wait cleaned up'), ['wait began', 'wait cancelled', 'wait cleaned up'])
    })

    for (const [how, options, isIt] of [
      ['aborted', signal => ({ signal }), error => error === 'enough'],
      ['out of time', () => ({ timeout: 100 }), error => error instanceof TimeoutError],
    ]) {
      test(`a stream that is ${how}: an item, its rejection, and its generator is closed`, async () => {
        const controller = new AbortController()
        const stream = peer.stream('ticks', [1_000_000], options(controller.signal))
        const read = async () => {
          for await (const item of stream) {
            if (item === 0) log.push('first item')
            if (item === 3) controller.abort('enough')
          }
        }
        const error = await logged('stream', read())
        assert.ok(isIt(error), `${error}`)
        assert.deepEqual(log, ['first item', 'stream rejected'])
        assert.deepEqual(await events('closed'), ['closed'])
      })
    }

    test('a stream that is left: its generator is closed before what comes after the loop', async () => {
      for await (const item of peer.stream('ticks', [1_000_000])) if (item === 3) break
      assert.deepEqual(await peer.call('take_events'), ['closed'])
    })

    test('aborting a queued call: its rejection comes before what it has waited for ends, and it never runs', async () => {
      const before = await peer.call('touched')
      const controller = new AbortController()
      const letGo = hold()
      const queued = logged('touch', peer.call('touch', [], { signal: controller.signal }))
      controller.abort()
      await queued
      await letGo()
      assert.deepEqual(log, ['touch rejected', 'hold answered'])
      assert.equal(await peer.call('touched'), before)
    })

    test('a thousand coroutines that wait are aborted at once', async () => {
      const controller = new AbortController()
      const calls = Array.from({ length: 1000 }, () => peer.call('wait', [30], { signal: controller.signal }))
      const ended = Promise.allSettled(calls)
      const all = []
      const count = async (event, n) => {
        all.push(...(await peer.call('take_events')))
        return all.filter(each => each === event).length === n
      }
      await until('all have begun', 10_000, () => count('wait began', 1000))
      controller.abort()
      await ended
      await until('all have cleaned up', 10_000, () => count('wait cleaned up', 1000))
      assert.ok(await count('wait cancelled', 1000))
    })

    test('a call whose signal was aborted before is not made', async () => {
      const before = await peer.call('touched')
      await assert.rejects(peer.call('touch', [], { signal: AbortSignal.abort('no') }), each => each === 'no')
      assert.equal(await peer.call('touched'), before)
    })

    test('a call that was answered is not changed by a late abort', async () => {
      const controller = new AbortController()
      assert.equal(await peer.call('echo', [1], { signal: controller.signal }), 1)
      controller.abort()
      assert.equal(await peer.call('echo', [2]), 2)
    })

    test('a handler knows how much time is left; also in nested calls', async () => {
      assert.equal(await peer.call('remaining'), null)
      for (const name of ['remaining', 'remaining_async']) {
        const left = await peer.call(name, [], { timeout: 20_000 })
        assert.ok(left > 1 && left <= 20.001, `${left}`)
        for (const apply of ['apply', 'apply_thread', 'apply_async']) {
          const nested = await peer.call(apply, [() => peer.call(name)], { timeout: 10_000 })
          assert.ok(nested > 1 && nested <= 10.001, `${apply}: ${nested}`)
          const shorter = await peer.call(apply, [() => peer.call(name, [], { timeout: 5000 })], {
            timeout: 10_000,
          })
          assert.ok(shorter > 1 && shorter <= 5.001, `${apply}: ${shorter}`)
        }
      }
    })

    test('the deadline of the outer call ends the inner one', async () => {
      let inner
      const nested = async () => {
        inner = logged('inner', peer.call('wait', [20]))
        throw await inner
      }
      const outer = logged('outer', peer.call('apply_async', [nested], { timeout: 200 }))
      // The other side may be the first to notice
      const isLate = error => error instanceof TimeoutError || error.type === 'TimeoutError'
      for (const error of [await outer, await inner]) assert.ok(isLate(error), `${error}`)
      assert.deepEqual(await events('wait cleaned up'), ['wait began', 'wait cancelled', 'wait cleaned up'])
    })
  })
}

describe('what runs in Python and never waits', () => {
  let peer
  const other = meetBefore('python', () => {
    peer = other.peer
  })

  // On the dispatcher's thread nothing else is answered meanwhile, so that what happened is asked for afterwards.
  for (const name of ['watch', 'watch_thread']) {
    for (const [how, options] of Object.entries({
      'by abort': () => ({ signal: AbortSignal.timeout(150) }),
      'by time': () => ({ timeout: 150 }),
    })) {
      test(`${name} sees in current() that it was cancelled ${how}`, async () => {
        await peer.call('take_events')
        await assert.rejects(peer.call(name, [20], options()))
        const all = []
        await until('it ends', 10_000, async () => {
          all.push(...(await peer.call('take_events')))
          return all.length === 2
        })
        assert.deepEqual(all, ['watch began', 'watch saw it'])
      })
    }
  }

  test('callSync that runs out of time tells the other side', async () => {
    await peer.call('take_events')
    assert.throws(() => peer.callSync('watch', [20], { timeout: 100 }), TimeoutError)
    assert.deepEqual(await peer.call('take_events'), ['watch began', 'watch saw it'])
  })

  test('a cancelled call whose callback runs here aborts its signal', async () => {
    const { current } = await import('isthmus')
    const controller = new AbortController()
    const order = []
    const callback = async () => {
      order.push('callback began')
      await sleep(20_000, null, { signal: current().signal }).catch(() => order.push('callback aborted'))
    }
    const call = peer.call('apply_async', [callback], { signal: controller.signal })
    await until('it began', 5000, () => order.length === 1)
    controller.abort()
    await assert.rejects(call)
    order.push('call rejected')
    await until('the callback is aborted', 5000, () => order.includes('callback aborted'))
    assert.deepEqual(order, ['callback began', 'call rejected', 'callback aborted'])
  })
})

for (const language of languages) {
  // One after the other they would take a quarter of an hour.
  test(`ten thousand calls of ${language} sleep together on one link`, { timeout: 100_000 }, async t => {
    const { peer, part } = await meet(language)
    const started = performance.now()
    const slept = await Promise.all(Array.from({ length: 10_000 }, () => peer.call('nap', [0.1])))
    const took = performance.now() - started
    assert.equal(slept.filter(each => each === 0.1).length, 10_000)
    t.diagnostic(`${Math.round(took)} ms`)
    await part()
  })
}
