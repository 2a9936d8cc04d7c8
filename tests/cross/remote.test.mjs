// Remote objects among several peers: one object everywhere, for as long as anybody has it.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { connect, HostLostError, isRemote } from 'isthmus'
import { collect, meet, privateDirectory, third, until } from './lib.mjs'

privateDirectory()
let other
let py
let neighbour
before(async () => {
  other = await meet('python')
  py = other.peer
  neighbour = await third(other.name, 'third.')
})
after(async () => {
  neighbour?.child.stdin.end()
  await other?.part()
})

/** Waits until so many objects live that were asked for; the other holder has dropped its own. */
const living = async expected => {
  await until(`${expected} objects live`, 10_000, async () => {
    await collect()
    await py.call('third.drop')
    return (await py.call('living')) === expected
  }).catch(async error => assert.fail(`${error.message}, but ${await py.call('living')}`))
}
test('an object is the same wherever it has been', async () => {
  const box = await py.call('box', [5])
  assert.ok(isRemote(box))
  assert.equal(await py.call('echo', [box]), box)
  assert.equal(await py.call('third.echo', [box]), box)
  await py.call('third.keep', [box])
  const back = await py.call('third.take')
  assert.equal(back, box)
  assert.equal(await py.call('same', [back, box]), true)
  assert.equal(await py.call('value_of', [back]), 5)
})

test('a third peer uses the object of another', async () => {
  const box = await py.call('box', [{ deep: [1] }])
  assert.deepEqual(await py.call('third.value_of', [box]), { deep: [1] })
})

test('a worker of this process uses an object that it was sent', async () => {
  const worker = new Worker(
    `const { workerData } = require('node:worker_threads')
     import('isthmus').then(async ({ connect }) => {
       const peer = await connect(workerData)
       peer.export('in-worker', async box => [await box.value, box])
       require('node:worker_threads').parentPort.postMessage('ready')
     })`,
    { eval: true, workerData: other.name },
  )
  await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
  const box = await py.call('box', [7])
  const [value, back] = await py.call('in-worker', [box])
  assert.equal(value, 7)
  assert.equal(back, box)
  await worker.terminate()
})

test('an object that was posted is its receiver’s for as long as it likes', async () => {
  await living(0)
  const box = await py.call('box', [8])
  py.post('third.keep', [{ here: [box] }])
  const { here } = await py.call('third.take')
  assert.equal(here[0], box)
  py.post('third.keep', [box])
  await py.call('third.echo', [1])
  box.release()
  assert.equal(await py.call('living'), 1)
  assert.equal(await (await py.call('third.take')).value, 8)
  await living(0)
})

test('an object lives until the last of its holders has released it', async () => {
  await living(0)
  const box = await py.call('box', [1])
  await py.call('third.keep', [box])
  assert.equal(await py.call('living'), 1)
  box.release()
  await assert.rejects(async () => box.value, /released/)
  const again = await py.call('third.take')
  assert.equal(await again.value, 1)
  await py.call('third.keep', [again])
  again.release()
  assert.equal(await py.call('living'), 1)
  await living(0)
})

test('objects that are dropped are collected over there', async () => {
  await living(0)
  const round = async () => {
    const boxes = await py.call('boxes', [1000])
    assert.equal(await boxes[999].value, 999)
    await py.call('third.echo', [boxes])
  }
  for (let i = 0; i < 10; i++) await round()
  await living(0)
})

test('an object goes with the holder that is killed', async () => {
  await living(0)
  const holder = await third(other.name, 'fourth.')
  await py.call('fourth.keep', [await py.call('boxes', [1000])])
  await collect()
  assert.equal(await py.call('living'), 1000)
  holder.child.kill('SIGKILL')
  await living(0)
})

test('an object outlives the peer that handed it on', async () => {
  await living(0)
  const between = await third(other.name, 'fifth.')
  await py.call('fifth.keep', [await py.call('box', [3])])
  await collect()
  const box = await py.call('fifth.take')
  between.child.kill('SIGKILL')
  await between.ended
  assert.equal(await box.value, 3)
  box.release()
  await living(0)
})

test('a holder that leaves in good order leaves nothing behind', async () => {
  await living(0)
  const guest = await connect(other.name)
  const boxes = await guest.call('boxes', [100])
  assert.equal(await boxes[7].value, 7)
  await guest.close()
  await living(0)
})

test('a function that was handed on is called where it lives', async () => {
  const heard = []
  const f = x => heard.push(x)
  await py.call('keep', [f])
  assert.equal(await py.call('third.apply', [await py.call('take'), 1]), 1)
  assert.equal(await py.call('apply', [await py.call('third.echo', [f]), 2]), 2)
  assert.deepEqual(heard, [1, 2])
  const theirs = await py.call('third.adder', [1])
  assert.equal(await py.call('apply', [theirs, 41]), 42)
  assert.equal(await py.call('third.apply', [await py.call('adder', [1]), 41]), 42)
})

test('a stream that was handed on is read where it is', async () => {
  assert.equal(await py.call('third.total', [await py.call('count', [1000])]), 499_500)
  assert.equal(await py.call('total', [await py.call('third.count', [1000])]), 499_500)
})

test('a function whose owner is gone is an error for its callers', async () => {
  const owner = await third(other.name, 'sixth.')
  const theirs = await py.call('sixth.adder', [1])
  await py.call('keep', [theirs])
  owner.child.kill('SIGKILL')
  await owner.ended
  await assert.rejects(async () => theirs(1), HostLostError)
  await assert.rejects(py.call('apply', [await py.call('take'), 1]), /PeerLost|gone|lost/)
  assert.equal(await py.call('echo', [1]), 1)
})

test('an object whose host is killed is an error', async () => {
  const doomed = await meet('python')
  const box = await doomed.peer.call('box')
  process.kill(doomed.pid, 'SIGKILL')
  await doomed.player.ended
  await assert.rejects(async () => box.value, HostLostError)
  await assert.rejects(async () => box.get(), HostLostError)
  box.release()
  await doomed.peer.close()
})
