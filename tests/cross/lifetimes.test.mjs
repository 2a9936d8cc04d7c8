// Memory is used again when nobody looks at it any more, and not before: however who made it, lent it or held it has ended.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { connect, HostLostError, move, release } from 'isthmus'
import { collect, languages, meet, meetBefore, privateDirectory, third, until } from './lib.mjs'

privateDirectory()
process.env.ISTHMUS_POISON = '1'

const sizes = [100, 50_000] // in a block among others, and in one of its own
const isAll = (array, value) => array.length > 0 && array.every(each => each === value)

for (const language of languages) {
  describe(`with ${language}`, () => {
    let peer
    const other = meetBefore(language, () => {
      peer = other.peer
    })

    const leased = async () => (await peer.stats()).memory.leased
    /** What is free is used anew, on both sides. */
    const churn = async size => {
      const taken = Array.from({ length: 20 }, () => peer.alloc(Float64Array, size).fill(-1))
      for (let i = 0; i < 20; i++) taken.push(await peer.call('make', [size, -1]))
      for (const each of taken) release(each)
    }
    const nothingIsLeft = () =>
      until('nothing is leased', 20_000, async () => {
        await collect()
        await peer.call('drop')
        return (await leased()) === 0
      })

    for (const size of sizes) {
      test(`what they keep of ${size} stays as it is when it is released here`, async () => {
        for (const [keep, length] of [
          ['keep', size],
          ['keep_part', 5 + 10],
        ]) {
          const array = peer.alloc(Float64Array, size).fill(1)
          await peer.call(keep, [array])
          release(array)
          await churn(size)
          assert.deepEqual(await peer.call('kept_is', [1]), [length, true])
          await nothingIsLeft()
        }
      })

      test(`what they keep of ${size} stays as it is when it is collected here`, async () => {
        await (async () => peer.call('keep', [peer.alloc(Float64Array, size).fill(1)]))()
        await collect()
        await churn(size)
        assert.deepEqual(await peer.call('kept_is', [1]), [size, true])
        await nothingIsLeft()
      })

      test(`a view of a view of ${size} that they made and dropped keeps it here`, async () => {
        let part = (await peer.call('make', [size, 2])).subarray(10).subarray(5, 20)
        await peer.call('drop')
        await collect()
        await churn(size)
        assert.ok(isAll(part, 2) && part.length === 15)
        part = null
        await nothingIsLeft()
      })

      test(`what was moved there, of ${size}, is theirs, and so is what comes back`, async () => {
        const array = peer.alloc(Float64Array, size).fill(3)
        await peer.call('keep', [move(array)])
        await churn(size)
        assert.deepEqual(await peer.call('kept_is', [3]), [size, true])
        const back = await peer.call('take')
        await churn(size)
        assert.ok(isAll(back.fill(4), 4))
        assert.equal(release(back), true)
        await nothingIsLeft()
      })

      test(`what they sent on, of ${size}, stays with a third when everybody else has let go`, async () => {
        const last = await third(other.name, 'last.')
        const keep = await peer.call('last.keeper')
        const array = peer.alloc(Float64Array, size).fill(5)
        await peer.call('apply', [keep, array])
        release(array)
        await peer.call('drop')
        await churn(size)
        assert.deepEqual(await peer.call('last.kept_is', [5]), [size, true])
        const back = await peer.call('last.take')
        last.child.stdin.end()
        await last.ended
        await churn(size)
        assert.ok(isAll(back, 5))
        release(back)
        await nothingIsLeft()
      })

      test(`an array of ${size} outlives its maker who was killed, and a killed holder keeps none`, async () => {
        const maker = await third(other.name, 'maker.')
        const made = await peer.call('maker.make', [size, 6])
        await peer.call('keep', [await peer.call('maker.make', [size, 7])])
        await peer.call('maker.keep', [peer.alloc(Float64Array, size).fill(8)])
        maker.child.kill('SIGKILL')
        await maker.ended
        await assert.rejects(peer.call('maker.take'), { name: /^(HostLost|NotExported)Error$/ })
        await churn(size)
        assert.ok(isAll(made, 6))
        assert.deepEqual(await peer.call('kept_is', [7]), [size, true])
        release(made)
        await nothingIsLeft()
      })

      test(`an array of ${size} outlives the worker that made it, and a terminated holder keeps none`, async () => {
        const worker = new Worker(
          `const { parentPort, workerData: [bus, size] } = require('node:worker_threads')
           require('isthmus').connect(bus).then(async peer => {
             const made = peer.alloc(Float64Array, size).fill(9)
             const held = [made, await peer.call('make', [size, 1])]
             peer.export('worker.make', () => made)
             peer.export('worker.keep', array => void held.push(array))
             await peer.call('keep', [made.subarray(0, size / 2)])
             parentPort.postMessage('ready')
           })`,
          { eval: true, workerData: [other.name, size] },
        )
        await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
        const made = await peer.call('worker.make')
        await peer.call('worker.keep', [peer.alloc(Float64Array, size)])
        await worker.terminate()
        await churn(size)
        assert.ok(isAll(made, 9))
        assert.deepEqual(await peer.call('kept_is', [9]), [size / 2, true])
        release(made)
        await nothingIsLeft()
      })
    }
  })
}

test('an array in a global of Python stays as it is, however full the bus gets, and the host ends in good order', async () => {
  const { peer, player, host } = await meet('python', '--memory', '512MiB')
  await peer.call('keep', [peer.alloc(Float64Array, 50_000).fill(1)])
  for (let round = 0; round < 3; round++) {
    const all = []
    assert.throws(
      () => {
        for (;;) all.push(peer.alloc(Uint8Array, 64 << 20))
      },
      { code: 'ERR_ISTHMUS_BUS_FULL' },
    )
    for (const each of all) {
      each[0] = each[each.length - 1] = round
      release(each)
    }
    assert.deepEqual(await peer.call('kept_is', [1]), [50_000, true])
  }
  await peer.close()
  assert.deepEqual(await host.stop(), { code: 0, signal: null }, player.err)
})

test('arrays that came from a host stay as they are when it is killed', async () => {
  const { name, peer, host } = await meet('python')
  const own = peer.alloc(Float64Array, 50_000).fill(2)
  const worker = await connect(name)
  const made = await peer.call('make', [50_000, 3])
  const lent = await worker.call('make', [50_000, 4])
  host.child.kill('SIGKILL')
  await host.ended
  await assert.rejects(peer.call('drop'), HostLostError)
  for (let i = 0; i < 20; i++) release(peer.alloc(Float64Array, 50_000).fill(-1))
  assert.ok(isAll(own, 2) && isAll(made, 3) && isAll(lent, 4))
  await worker.close()
  await peer.close()
})
