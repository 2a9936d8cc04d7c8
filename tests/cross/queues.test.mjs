// Queues and topics between processes of both languages, of which some are killed at every step.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { connect } from 'isthmus'
import { languages, privateDirectory, python, serve, start, until } from './lib.mjs'

privateDirectory()
const patience = 30_000
const here = name => new URL(name, import.meta.url).pathname
let buses = 0

/** A bus that serves nothing, this isolate's place on it, and processes that come and go. */
async function meet(t) {
  const name = `queues-${process.pid}-${++buses}`
  const host = await serve(here('nobody.py'), name)
  const bus = await connect(name)
  const started = []
  t.after(async () => {
    for (const each of started) await each.kill()
    await bus.close()
    await host.stop()
  })
  const child = async (language, prefetch = 1) => {
    const [program, script] =
      language === 'python' ? [python, here('../queue_peer.py')] : [process.execPath, here('queue_peer.mjs')]
    const process_ = start(program, [script, name, String(prefetch)])
    const tell = (...words) => process_.say(JSON.stringify(words))
    const answer = async () => JSON.parse(await process_.line())
    const one = {
      tell,
      answer,
      do: (...words) => {
        tell(...words)
        return answer()
      },
      kill: () => {
        process_.child.kill('SIGKILL')
        return process_.ended
      },
    }
    started.push(one)
    assert.equal(await one.answer(), 'there')
    return one
  }
  return { bus, child }
}

for (const from of languages) {
  for (const to of languages) {
    const between = `from ${from} to ${to}`

    test(`${between}, messages come in order, each once, and again when their consumer was killed`, async t => {
      const { bus, child } = await meet(t)
      const q = bus.queue('q')
      const producer = await child(from)
      for (let i = 0; i < 8; ++i) assert.equal(await producer.do('put', { number: i }), 'done')
      const number = ([{ number }, deliveries]) => [number, deliveries]

      const first = await child(to)
      assert.deepEqual(number(await first.do('get')), [0, 1])
      await first.kill() // it has got one

      const second = await child(to, 3)
      assert.deepEqual(number(await second.do('get')), [0, 2])
      assert.deepEqual(number(await second.do('get')), [1, 1])
      assert.deepEqual(number(await second.do('get')), [2, 1])
      await second.do('ack')
      await until('the word has come', patience, async () => (await q.stats()).acknowledged === 1)
      await second.kill() // it has acknowledged one of three

      const third = await child(to)
      assert.deepEqual(number(await third.do('get')), [1, 2])
      await third.do('reject')
      assert.deepEqual(number(await third.do('get')), [1, 3])
      await third.do('ack')
      assert.deepEqual(number(await third.do('get')), [2, 2])
      third.tell('ack')
      third.tell('get')
      assert.equal(await third.answer(), 'done')
      assert.deepEqual(number(await third.answer()), [3, 1])
      await third.kill()

      const rest = bus.queue('q')
      for (let i = 3; i < 8; ++i) {
        const message = await rest.get({ timeout: patience })
        assert.deepEqual([message.value, message.deliveries], [{ number: i }, i === 3 ? 2 : 1])
        message.ack()
      }
      const { put, acknowledged, dead, waiting, unacknowledged } = await q.stats()
      assert.deepEqual([put, acknowledged, dead, waiting, unacknowledged], [8, 8, 0, 0, 0])
    })

    test(`${between}, what a producer waits with is withdrawn when it dies, and what was taken in stays`, async t => {
      const { bus, child } = await meet(t)
      const q = bus.queue('q', { depth: 2 })
      await q.stats()
      const producer = await child(from)
      await producer.do('put', 'a')
      await producer.do('put', 'b')
      producer.tell('put', 'withdrawn')
      await until('it waits', patience, async () => (await q.stats()).blocked === 1)
      await producer.kill()
      await until('it waits no longer', patience, async () => (await q.stats()).blocked === 0)
      const consumer = await child(to)
      assert.deepEqual(await consumer.do('get'), ['a', 1])
      await consumer.do('ack')
      assert.deepEqual(await consumer.do('get'), ['b', 1])
      await consumer.do('ack')
      await until('all is done', patience, async () => (await q.stats()).acknowledged === 2)
      assert.deepEqual(await q.stats(), {
        waiting: 0,
        unacknowledged: 0,
        blocked: 0,
        depth: 2,
        put: 2,
        acknowledged: 2,
        redelivered: 0,
        dead: 0,
        late: 0,
      })
    })

    test(`${between}, a publisher waits for a slow subscriber, which misses nothing`, async t => {
      const { child } = await meet(t)
      const [publisher, subscriber] = [await child(from), await child(to)]
      await subscriber.do('subscribe', 'wait', 2)
      const room = 4 // two on the way, two kept
      for (let i = 0; i < room; ++i) assert.equal(await publisher.do('publish', { number: i }), 'done')
      assert.equal(await publisher.do('publish', 'withdrawn', 0.05), 'no room')
      const count = 200
      for (let i = room; i < count; ++i) publisher.tell('publish', { number: i })
      for (let i = 0; i < count; ++i) assert.deepEqual(await subscriber.do('next'), [{ number: i }, 0])
      for (let i = room; i < count; ++i) assert.equal(await publisher.answer(), 'done')
    })

    test(`${between}, nobody waits for a subscriber that drops the oldest, and it counts them`, async t => {
      const { child } = await meet(t)
      const [publisher, subscriber] = [await child(from), await child(to)]
      const depth = 3
      await subscriber.do('subscribe', 'drop-oldest', depth)
      const publish = async (first, end) => {
        for (let number = first; number < end; ++number)
          assert.equal(await publisher.do('publish', { number }), 'done')
      }
      const taken = []
      const takeUpTo = async newest => {
        while (taken.at(-1) !== newest) {
          const [{ number }, dropped] = await subscriber.do('next')
          assert.equal(dropped, number - taken.length)
          taken.push(number)
        }
      }
      await publish(0, 10) // three on the way, three kept
      await takeUpTo(9)
      assert.deepEqual(taken, [0, 1, 2, 7, 8, 9])
      await publish(10, 210)
      await takeUpTo(209)
      assert.deepEqual(taken.slice(-depth), [207, 208, 209])
      assert.ok(taken.length <= 6 + 2 * depth)
    })
  }

  test(`a dead subscriber in ${from} holds nobody up`, async t => {
    const { bus, child } = await meet(t)
    const subscriber = await child(from)
    await subscriber.do('subscribe', 'wait', 1)
    const topic = bus.topic('t')
    await topic.publish(1)
    await topic.publish(2)
    const waiting = topic.publish(3)
    await subscriber.kill()
    await waiting
  })
}

test('20,000 messages through three consumers, one of which is killed again and again, each have their result', async t => {
  const { bus, child } = await meet(t)
  const count = 20_000
  const q = bus.queue('q', { depth: 1000, deliveries: 1000 })
  await q.stats()
  for (const language of languages) assert.equal(await (await child(language, 32)).do('relay'), 'done')
  let isOver = false
  let kills = 0
  const killing = (async () => {
    for (; !isOver; ++kills) {
      const victim = await child(languages[kills % 2], 32)
      await victim.do('relay')
      await until('it has results', patience, async () => (await q.stats()).unacknowledged > 64 || isOver)
      await victim.kill()
    }
  })()
  const producing = (async () => {
    for (let i = 0; i < count; i += 500)
      await Promise.all(Array.from({ length: 500 }, (_, j) => q.put(i + j)))
  })()
  const seen = new Set()
  let results = 0
  for await (const message of bus.queue('results', { prefetch: 128 })) {
    seen.add(message.value)
    message.ack()
    ++results
    if (seen.size === count) break
  }
  isOver = true
  await Promise.all([producing, killing])
  await until('all is acknowledged', patience, async () => (await q.stats()).acknowledged === count)
  const { put, redelivered, dead, waiting } = await q.stats()
  assert.deepEqual([put, dead, waiting], [count, 0, 0])
  assert.equal(Math.max(...seen), count - 1)
  assert.ok(kills > 0 && redelivered > 0, `${kills} were killed, and ${redelivered} given out again`)
  assert.ok(results - count <= redelivered, 'what has two results was given out twice')
})
