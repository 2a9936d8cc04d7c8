// Streams in both directions: in order, bounded by credit, and closed on both sides.

import assert from 'node:assert/strict'
import { beforeEach, describe, test } from 'node:test'
import { HostLostError } from 'isthmus'
import {
  collect,
  languages,
  meet,
  meetBefore,
  privateBytes,
  privateDirectory,
  sleep,
  until,
  usedBytes,
} from './lib.mjs'

privateDirectory()
const million = 1_000_000
const mib = 2 ** 20
/** What a credit allows to be made before the consumer has asked for more; and some on their way. */
const ahead = 4096

const numbers = n => Array.from({ length: n }, (_, i) => i)
async function taken(stream) {
  const items = []
  for await (const item of stream) items.push(item)
  return items
}
async function takenOf(stream, n) {
  const items = []
  for await (const item of stream) if (items.push(item) === n) break
  return items
}
function* sequence(n, events = []) {
  try {
    for (let i = 0; i < n; i++) yield i
  } finally {
    events.push('closed')
  }
}
async function* sequenceAsync(n, events) {
  yield* sequence(n, events)
}

for (const language of languages) {
  describe(`with ${language}`, () => {
    let peer
    const other = meetBefore(language, () => {
      peer = other.peer
    })
    beforeEach(() => peer.call('take_events'))
    const events = () => peer.call('take_events')
    const closed = () =>
      until('the generator is closed', 5000, async () => (await events()).includes('closed'))

    // --- from there to here ---

    for (const name of ['count', 'ticks']) {
      test(`the items of ${name} come in order, and its end`, async () => {
        assert.deepEqual(await taken(peer.stream(name, [100])), numbers(100))
        assert.deepEqual(await events(), ['closed'])
        assert.deepEqual(await taken(peer.stream(name, [0])), [])
      })

      test(`a break closes ${name} over there`, async () => {
        assert.deepEqual(await takenOf(peer.stream(name, [million]), 3), [0, 1, 2])
        await closed()
        assert.ok((await peer.call('how_many')) <= ahead)
      })

      test(`the result of ${name} is an async iterable when it is called for`, async () => {
        assert.deepEqual(await taken(await peer.call(name, [20])), numbers(20))
      })
    }

    test('an error in mid-stream arrives after the items before it', async () => {
      for (const at of [0, 1, 255, 256, 257, 5000]) {
        const items = []
        await assert.rejects(
          async () => {
            for await (const item of peer.stream('count', [million, at])) items.push(item)
          },
          error => error.message.includes(`no ${at}`),
        )
        assert.deepEqual(items, numbers(at))
      }
    })

    test('a million small items arrive in order', async () => {
      let next = 0
      for await (const item of peer.stream('count', [million])) {
        if (item !== next) assert.equal(item, next)
        next++
      }
      assert.equal(next, million)
    })

    test('a slow consumer of a million items holds the producer up, and nobody grows', async t => {
      const figures = async () => {
        await collect()
        return [usedBytes(), privateBytes(other.pid)]
      }
      let taken = 0
      let furthest = 0
      const sizes = []
      for await (const item of peer.stream('count', [million, -1, 100])) {
        if (item.length !== 100) assert.fail(item)
        if (++taken % 1000 !== 0) continue
        await sleep(1)
        furthest = Math.max(furthest, (await peer.call('how_many')) - taken)
        if (taken % 100_000 === 0) sizes.push(await figures())
      }
      assert.equal(taken, million)
      assert.ok(furthest <= ahead, `${furthest} items ahead`)
      const most = (side, from, to) => Math.max(...sizes.slice(from, to).map(each => each[side])) / mib
      const grown = [0, 1].map(side => most(side, 5, 10) - most(side, 0, 5))
      t.diagnostic(
        `${furthest} items ahead; in the second half ${grown.map(each => each.toFixed(1))} MiB more`,
      )
      // Half of the items would be 50 MiB
      assert.ok(Math.max(...grown) < 8, `${grown} MiB more`)
    })

    test('a hundred streams at once keep their items apart', async () => {
      const streams = Array.from({ length: 100 }, (_, i) => takenOf(peer.stream('count', [10_000]), i + 1))
      for (const [i, items] of (await Promise.all(streams)).entries()) {
        assert.deepEqual(items, numbers(i + 1))
      }
    })

    test('items are any values', async () => {
      const items = [null, 'text', [1, { two: 2 }], new Float64Array([1, 2]), new Map([[1, 2]]), 2n ** 80n]
      assert.deepEqual(await taken(await peer.call('echo', [items.values()])), items)
    })

    // --- from here to there ---

    for (const [kind, make] of Object.entries({
      generator: sequence,
      'async generator': sequenceAsync,
      'Web Stream': n => ReadableStream.from(sequence(n)),
    })) {
      for (const name of ['total', 'total_async']) {
        test(`${name} reads a ${kind}`, async () => {
          assert.equal(await peer.call(name, [make(3000)]), 4_498_500)
          assert.equal(await peer.call(name, [make(0)]), 0)
        })
      }
    }

    for (const name of ['first', 'first_async']) {
      for (const make of [sequence, sequenceAsync]) {
        test(`${name} leaves a ${make.name} early, which closes it here`, async () => {
          const seen = []
          assert.deepEqual(await peer.call(name, [make(million, seen), 3]), [0, 1, 2])
          await until('it is closed', 5000, () => seen.length > 0)
          assert.deepEqual(seen, ['closed'])
        })
      }
    }

    test('an error of a generator here arrives there after its items', async () => {
      async function* failing() {
        yield* [1, 2]
        throw new RangeError('no more')
      }
      const seen = await peer.call('until_error', [failing()])
      assert.deepEqual(seen.slice(0, 2), [1, 2])
      assert.match(seen[2], /no more/)
    })

    test('a million small items go there', async () => {
      assert.equal(await peer.call('total', [sequence(million)]), (million * (million - 1)) / 2)
    })

    test('a slow consumer there holds the generator here up', async () => {
      let made = 0
      function* endless() {
        for (;;) {
          made++
          yield 'x'.repeat(1000)
        }
      }
      await peer.call('slowly', [endless(), 0.2])
      assert.ok(made <= ahead, `${made} were made`)
    })

    test('a stream that was lent and goes home is the very generator', async () => {
      const mine = sequenceAsync(3)
      assert.equal(await peer.call('echo', [mine]), mine)
      assert.deepEqual(await taken(mine), [0, 1, 2])
      const theirs = await peer.call('count', [3])
      assert.equal(await peer.call('total', [theirs]), 3)
    })
  })
}

test('a stream whose producer is killed ends with HostLostError after its items', async () => {
  const { peer, host, pid } = await meet('python')
  const items = []
  await assert.rejects(async () => {
    for await (const item of peer.stream('ticks', [million, 0.001])) {
      if (items.push(item) === 10) process.kill(pid, 'SIGKILL')
    }
  }, HostLostError)
  assert.deepEqual(items.slice(0, 10), numbers(10))
  await peer.close()
  await host.ended
})
