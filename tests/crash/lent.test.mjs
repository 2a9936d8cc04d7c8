// What one side has lent to the other is let go when nobody holds it any more, however the holder ends.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { connect, HostLostError, spawn } from 'isthmus'
import {
  collect,
  meet,
  privateBytes,
  privateDirectory,
  serve,
  sleep,
  start,
  third,
  until,
  usedBytes,
} from '../cross/lib.mjs'

privateDirectory()
const here = name => fileURLToPath(new URL(name, import.meta.url))
const app = here('host.py')
const many = 100_000
const mib = 2 ** 20

/** Functions of this isolate, and how many of them are gone. */
function functions(n) {
  const count = { gone: 0 }
  count.registry = new FinalizationRegistry(() => count.gone++)
  count.made = Array.from({ length: n }, (_, i) => {
    const f = x => x + i
    count.registry.register(f)
    return f
  })
  return count
}

const collected = (count, n) =>
  until(`${n} functions are collected`, 20_000, async () => {
    await collect()
    return count.gone >= n
  }).catch(error => assert.fail(`${error.message}, but ${count.gone}`))

test('100,000 callbacks that Python keeps and drops are collected here', async () => {
  const py = await spawn(app)
  const count = functions(many)
  for (let i = 0; i < many; i += 1000) await py.call('keep', [count.made.slice(i, i + 1000)])
  count.made = null
  await collect()
  assert.equal(count.gone, 0)
  await py.call('drop')
  await collected(count, many)
  await py.close()
})

test('100,000 remote objects that are dropped here are collected in Python', async () => {
  const py = await spawn(app)
  const pid = await py.call('pid')
  const round = async () => {
    let things = []
    for (let i = 0; i < many; i += 1000) things.push(await py.call('things', [1000]))
    assert.equal(await py.call('living'), many)
    things = null
    await until('they are gone', 20_000, async () => {
      await collect()
      return (await py.call('living')) === 0
    })
    return [process.pid, pid].map(privateBytes)
  }
  await round()
  const before = await round()
  await round()
  const after = await round()
  for (const i of [0, 1]) {
    assert.ok(after[i] - before[i] < 8 * mib, `${(after[i] - before[i]) / mib} MiB more`)
  }
  await py.close()
})

test('SIGKILL of a Node process that holds 100,000 objects and has lent 100,000 callbacks', async t => {
  const host = await serve(app, 'lenders')
  const py = await connect('lenders')
  await py.call('thing')
  const round = async () => {
    const holder = start(process.execPath, [here('child.mjs'), 'lends', 'lenders', String(many)])
    assert.equal(await holder.line(), 'holding')
    assert.ok((await py.call('living')) >= many)
    holder.child.kill('SIGKILL')
    await holder.ended
    await until('its objects are gone', 20_000, async () => {
      await collect()
      return (await py.call('living')) === 0
    })
    // The callbacks are there still, for Python to drop, and of no use.
    assert.equal(await py.call('kept'), many)
    await assert.rejects(py.call('use'), /PeerLost|lost|gone/)
    await py.call('drop')
    return privateBytes(host.pid)
  }
  const grown = [await round(), await round(), await round()]
  t.diagnostic(grown.map(bytes => `${(bytes / mib).toFixed(0)} MiB`).join(', '))
  assert.ok(grown[2] - grown[1] < 8 * mib, `${(grown[2] - grown[1]) / mib} MiB more`)
  await py.close()
  await host.stop()
})

test('SIGKILL of a host that holds 100,000 callbacks and has lent 100,000 objects', async t => {
  const round = async () => {
    const py = await spawn(app)
    const pid = await py.call('pid')
    const count = functions(many)
    for (let i = 0; i < many; i += 1000) await py.call('keep', [count.made.slice(i, i + 1000)])
    count.made = null
    const things = []
    for (let i = 0; i < many; i += 1000) things.push(...(await py.call('things', [1000])))
    process.kill(pid, 'SIGKILL')
    await assert.rejects(async () => things[0].anything, HostLostError)
    await collected(count, many)
    await py.close()
  }
  await round()
  await collect()
  const before = privateBytes(process.pid)
  await round()
  await collect()
  await sleep(50)
  await collect()
  const grown = (privateBytes(process.pid) - before) / mib
  t.diagnostic(`${grown.toFixed(1)} MiB`)
  assert.ok(grown < 16, `${grown} MiB more`)
})

test('SIGKILL of a Node process that holds 100,000 callbacks of another and has lent it as many functions', async t => {
  const round = async () => {
    const { peer, player, part } = await meet('javascript')
    const count = functions(many)
    const held = []
    for (let i = 0; i < many; i += 1000) {
      await peer.call('keep', [count.made.slice(i, i + 1000)])
      held.push(...(await peer.call('adders', [1000])))
    }
    count.made = null
    await collect()
    assert.equal(count.gone, 0)
    assert.equal(await held.at(-1)(1), 1000)
    player.child.kill('SIGKILL')
    await player.ended
    await assert.rejects(async () => held[0](1), HostLostError)
    await collected(count, many)
    await part()
  }
  await round()
  await collect()
  const before = usedBytes()
  await round()
  await collect()
  const grown = (usedBytes() - before) / mib
  t.diagnostic(`${grown.toFixed(1)} MiB`)
  assert.ok(grown < 8, `${grown} MiB more`)
})

test('SIGKILL of a Node process that holds 100,000 functions of another Node lets them go', async () => {
  const { peer: guest, name, part } = await meet('javascript')
  const holder = await third(name, 'holder.')
  for (let i = 0; i < many; i += 1000) await guest.call('holder.keep', [await guest.call('adders', [1000])])
  await collect()
  assert.equal(await guest.call('living'), many)
  holder.child.kill('SIGKILL')
  await until('they are gone', 20_000, async () => {
    await collect()
    return (await guest.call('living')) === 0
  })
  await part()
})

test('SIGKILL of one side in the middle of a callback ends the other side of it', async () => {
  const py = await spawn(app)
  const pid = await py.call('pid')
  const call = py.call('apply', [
    () => {
      process.kill(pid, 'SIGKILL')
      return sleep(50)
    },
  ])
  await assert.rejects(call, HostLostError)
  await py.close()

  const host = await serve(app, 'callers')
  const other = await connect('callers')
  const dying = start(process.execPath, [here('child.mjs'), 'dies-in-callback', 'callers'])
  assert.deepEqual(await dying.ended, { code: null, signal: 'SIGKILL' })
  await until('the host answers again', 10_000, async () => (await other.call('add', [1, 2])) === 3)
  await other.close()
  await host.stop()
})

test('SIGKILL of who reads a stream closes the generator in Python', async () => {
  const host = await serve(app, 'producers')
  const py = await connect('producers')
  const reader = start(process.execPath, [here('child.mjs'), 'reads', 'producers'])
  assert.equal(await reader.line(), 'reading')
  assert.equal(await py.call('closed'), 0)
  reader.child.kill('SIGKILL')
  await until('the generator is closed', 10_000, async () => (await py.call('closed')) === 1)
  await py.close()
  await host.stop()
})

test('SIGKILL of who is read from is an error after the items before it', async () => {
  const host = await serve(app, 'consumers')
  const py = await connect('consumers')
  const source = start(process.execPath, [here('child.mjs'), 'is-read', 'consumers'])
  assert.deepEqual(await source.ended, { code: null, signal: 'SIGKILL' })
  await until('the reader has ended', 10_000, async () => (await py.call('kept')) === 1)
  const [count, error] = await py.call('last')
  assert.ok(count > 0 && count <= 20_000, `${count}`)
  assert.equal(error, 'PeerLost')
  await py.close()
  await host.stop()
})
