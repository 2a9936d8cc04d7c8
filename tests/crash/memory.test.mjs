// What many calls leave behind.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { release, spawn } from 'isthmus'
import {
  collect,
  descriptors,
  meet,
  privateBytes,
  privateDirectory,
  segmentBytes,
  threads,
  until,
  usedBytes,
} from '../cross/lib.mjs'

privateDirectory()
const app = fileURLToPath(new URL('host.py', import.meta.url))
const mib = bytes => (bytes / 2 ** 20).toFixed(1)

async function ofHost(py) {
  const pid = await py.call('pid')
  return () => privateBytes(pid)
}

/** `there` tells how much memory the other side uses. */
async function figures(there) {
  await collect()
  return {
    here: usedBytes(),
    there: await there(),
    segment: segmentBytes(process.pid),
    fds: descriptors(process.pid),
  }
}

async function leavesNothing(t, peer, there, calls, batch) {
  const { leased } = (await peer.stats()).memory
  const found = []
  for (let round = 0; round < 4; round++) {
    for (let i = 0; i < calls / 2; i += 1000) await batch()
    await until('nothing more is leased', 5000, async () => (await peer.stats()).memory.leased <= leased)
    found.push(await figures(there))
  }
  // How high things pile up before they are collected differs; what leaks is more each time.
  const grown = of => {
    const [first, second, third, fourth] = found.map(of)
    return Math.min(third, fourth) - Math.max(first, second)
  }
  const shown = of => found.map(each => mib(of(each))).join(' → ')
  t.diagnostic(`MiB here ${shown(each => each.here)}, there ${shown(each => each.there)}`)
  // 8 bytes that stay of each of half a million calls would be as much
  assert.ok(grown(each => each.here) < 4 * 2 ** 20, `it grew here: ${shown(each => each.here)} MiB`)
  assert.ok(grown(each => each.there) < 4 * 2 ** 20, `it grew there: ${shown(each => each.there)} MiB`)
  // a block of each call would be as much in the shortest of these tests
  assert.ok(grown(each => each.segment) < 8 * 2 ** 20, `the bus grew: ${shown(each => each.segment)} MiB`)
  assert.ok(grown(each => each.fds) <= 0)
}

const text = 'x'.repeat(1000)
const thousand = call => () => Promise.all(Array.from({ length: 1000 }, (_, i) => call(i)))
const aborted = py =>
  thousand(() => {
    const controller = new AbortController()
    const call = py.call('echo', [text], { signal: controller.signal }).catch(() => {})
    controller.abort()
    return call
  })

for (const [what, calls, batch, isPlayedByAll] of [
  ['a million calls with a string of 1 kB', 1_000_000, py => thousand(() => py.call('echo', [text]))],
  [
    '200,000 calls of callMany with a string of 1 kB',
    200_000,
    py => () => py.callMany('echo', Array(1000).fill([text])),
  ],
  [
    '200,000 calls of callSync with a string of 1 kB',
    200_000,
    py => async () => {
      for (let i = 0; i < 1000; i++) py.callSync('echo', [text])
    },
  ],
  ['100,000 calls that fail', 100_000, py => thousand(() => py.call('add', [1, 'x']).catch(() => {}))],
  [
    '100,000 calls of an unknown name',
    100_000,
    py => thousand(() => py.call('nothing', [1]).catch(() => {})),
  ],
  [
    '100,000 calls that cannot be encoded',
    100_000,
    py => thousand(i => py.call('echo', [[i, text, Symbol('s')]]).catch(() => {})),
  ],
  [
    '100,000 calls with arrays, released',
    100_000,
    py =>
      thousand(async () => {
        const x = py.alloc(Float64Array, 500)
        const y = await py.call('next', [x])
        release(x)
        release(y)
      }),
  ],
  [
    '100,000 callbacks, made, called and dropped',
    100_000,
    py => thousand(i => py.call('apply', [x => x + i, 1])),
    true,
  ],
  ['100,000 remote objects, made and dropped', 100_000, py => thousand(() => py.call('thing'))],
  [
    '100,000 functions of the other side, called and dropped',
    100_000,
    py => thousand(async i => (await py.call('adder', [i]))(1)),
    true,
  ],
  [
    '100,000 short streams in both directions',
    100_000,
    py =>
      thousand(async () => {
        for await (const _ of py.stream('restream', [[1, 2].values()]));
      }),
    true,
  ],
  ['100,000 calls that are aborted', 100_000, aborted, true],
]) {
  test(`${what} leave the memory of both processes as it was`, async t => {
    const py = await spawn(app)
    await leavesNothing(t, py, await ofHost(py), calls, batch(py))
    await py.close()
  })
  if (!isPlayedByAll) continue
  test(`${what} leave the memory of two Node processes as it was`, async t => {
    const { peer, part } = await meet('javascript')
    await leavesNothing(t, peer, () => peer.call('used'), calls, batch(peer))
    await part()
  })
}

test('calls that are aborted before they were sent are over at once, and not when the loop turns', async t => {
  const py = await spawn(app)
  const batch = aborted(py)
  for (let i = 0; i < 100; i++) {
    await batch()
    py.callSync('echo', [i]) // takes in all that has come
  }
  const before = await figures(await ofHost(py))
  for (let i = 0; i < 100; i++) await batch()
  const after = await figures(await ofHost(py))
  const grown = mib(after.here - before.here)
  t.diagnostic(`${grown} MiB`)
  assert.ok(grown < 6, `Node grew by ${grown} MiB`)
  await py.close()
})

test('twenty hosts, started and stopped, leave no descriptors, threads or children', async () => {
  const cycle = async () => {
    const py = await spawn(app)
    assert.equal(await py.call('add', [1, 2]), 3)
    await py.close()
  }
  const figures = async () => {
    await collect()
    const children = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8')
      .split(' ')
      .filter(Boolean).length
    return { descriptors: descriptors(process.pid), threads: threads(process.pid), children }
  }
  await cycle()
  const before = await figures()
  for (let i = 0; i < 20; i++) await cycle()
  assert.deepEqual(await figures(), before)
})
