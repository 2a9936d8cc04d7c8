// Functions that travel: called back from everywhere, and the same when they come home.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { IsthmusError } from 'isthmus'
import { languages, meetBefore, privateDirectory, sleep } from './lib.mjs'

privateDirectory()

for (const language of languages) {
  describe(`with ${language}`, () => {
    let peer
    const other = meetBefore(language, () => {
      peer = other.peer
    })

    // a dispatcher, a thread and a coroutine, where the other side has them
    for (const apply of ['apply', 'apply_thread', 'apply_async']) {
      test(`${apply} calls back a function, and gets its value`, async () => {
        assert.deepEqual(await peer.call(apply, [(a, b) => [b, a], 1, { two: 2 }]), [{ two: 2 }, 1])
        assert.equal(await peer.call(apply, [() => undefined]), null)
      })

      test(`${apply} waits for the promise of an async function`, async () => {
        const slow = async x => {
          await sleep(20)
          return x + 1
        }
        assert.equal(await peer.call(apply, [slow, 1]), 2)
        const all = await Promise.all(Array.from({ length: 20 }, (_, i) => peer.call(apply, [slow, i])))
        assert.deepEqual(
          all,
          all.map((_, i) => i + 1),
        )
      })

      test(`${apply} gets the error of a function, which comes home as it was`, async () => {
        const error = new RangeError('mine')
        const thrower = () => {
          throw error
        }
        await assert.rejects(peer.call(apply, [thrower]), each => each === error)
        await assert.rejects(peer.call(apply, [async () => thrower()]), each => each === error)
      })

      test(`${apply} calls back a function of its own side`, async () => {
        assert.equal(await peer.call(apply, [await peer.call('adder', [2]), 40]), 42)
      })
    }

    test('a function is the same when it comes home, also from deep inside and after a while', async () => {
      const f = () => 1
      assert.equal(await peer.call('echo', [f]), f)
      const { deep } = await peer.call('echo', [{ deep: [f, [f]] }])
      assert.ok(deep[0] === f && deep[1][0] === f)
      await peer.call('keep', [f])
      assert.equal(await peer.call('take'), f)
      assert.equal(await peer.call('apply', [g => g, f]), f)
    })

    test('a function is one function over there, too', async () => {
      const f = () => 1
      assert.equal(await peer.call('same', [f, f]), true)
      assert.equal(await peer.call('same', [f, () => 1]), false)
      const theirs = await peer.call('adder', [1])
      assert.equal(await peer.call('echo', [theirs]), theirs)
      assert.equal(await peer.call('same', [theirs, theirs]), true)
    })

    test('a function of the other side is an async function', async () => {
      const add = await peer.call('adder', [1])
      assert.equal(typeof add, 'function')
      const promise = add(41)
      assert.equal(typeof promise.then, 'function')
      assert.equal(await promise, 42)
      const many = await Promise.all(Array.from({ length: 1000 }, (_, i) => add(i)))
      assert.equal(many.at(-1), 1000)
    })

    test('callSync serves its own callbacks', () => {
      assert.equal(peer.callSync('apply', [x => x + 1, 1]), 2)
      const error = new RangeError('mine')
      const thrower = () => {
        throw error
      }
      assert.throws(
        () => peer.callSync('apply', [thrower]),
        each => each === error,
      )
      assert.equal(peer.callSync('apply_thread', [x => x + 1, 1]), 2)
      assert.equal(peer.callSync('apply_async', [x => x + 1, 1]), 2)
    })

    test('callSync in a callback of callSync', () => {
      assert.equal(peer.callSync('apply', [x => peer.callSync('apply', [y => x + y, 1]), 1]), 2)
    })

    test('mutual recursion a hundred deep', async () => {
      const descend = async n => (n === 0 ? 0 : 1 + (await peer.call('descend', [descend, n - 1])))
      assert.equal(await descend(100), 100)
      const descendAsync = async n =>
        n === 0 ? 0 : 1 + (await peer.call('descend_async', [descendAsync, n - 1]))
      assert.equal(await descendAsync(100), 100)
    })

    test('mutual recursion a hundred deep by callSync', () => {
      const descend = n => (n === 0 ? 0 : 1 + peer.callSync('descend', [descend, n - 1]))
      assert.equal(descend(100), 100)
    })

    test('calls nested deeper than the limit are an error that says so', async () => {
      const descend = n => (n === 0 ? 0 : 1 + peer.callSync('descend', [descend, n - 1]))
      assert.throws(() => descend(2000), /nested deeper than 128/)
      assert.equal(await peer.call('echo', [1]), 1)
    })

    test('ten thousand callbacks in flight at once', async () => {
      const all = await peer.call('apply_at_once', [async i => i, 10_000])
      assert.equal(all.length, 10_000)
      assert.ok(all.every((x, i) => x === i))
    })

    test('the other side goes on while a callback runs', async () => {
      assert.ok((await peer.call('meanwhile', [() => sleep(100)])) >= 10)
    })

    test('calls of others wait their turn while a callback runs', async () => {
      const order = []
      const first = peer
        .call('apply', [
          async () => {
            order.push('callback began')
            await sleep(30)
            order.push('callback ended')
          },
        ])
        .then(() => order.push('first'))
      const second = peer.call('echo', [1]).then(() => order.push('second'))
      await Promise.all([first, second])
      assert.ok(order.indexOf('callback began') < order.indexOf('callback ended'))
      if (language === 'python')
        assert.ok(order.indexOf('second') > order.indexOf('callback ended'), `${order}`)
    })

    test('two that wait for each other are both served', async () => {
      const calls = Array.from({ length: 50 }, (_, i) =>
        peer.call('apply', [x => peer.call('apply', [y => x + y, 1]), i]),
      )
      assert.deepEqual(
        await Promise.all(calls),
        calls.map((_, i) => i + 1),
      )
    })

    test('a callback may be called after the call that brought it', async () => {
      const heard = []
      await peer.call('keep', [x => heard.push(x)])
      const f = await peer.call('take')
      f(1)
      assert.deepEqual(heard, [1])
      await assert.rejects(peer.call('apply', ['no function']), IsthmusError)
    })
  })
}
