// A million hand-offs, which take about a minute; `./dev soak` goes on for as long as it may.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { soak } from './soak.mjs'

test('a million arrays are handed over, and peers killed in between: no wrong byte, no leak', async t => {
  const seed = Math.floor(Math.random() * 2 ** 32)
  t.diagnostic(`seed ${seed}`)
  const total = await soak({ seconds: 60, handOffs: 1_000_000, seed })
  t.diagnostic(`${total.handedOver} hand-offs, ${total.kills} kills, ${total.lost} calls lost to them`)
  assert.deepEqual(total.wrong, [], `with seed ${seed}`)
  assert.ok(total.handedOver > 50_000)
  assert.ok(total.kills >= total.handedOver / 100_000)
  // Beside the arena there are tables, which stay, of 16 KiB for each 256 KiB that were used in small blocks.
  assert.ok(total.segment.after - total.segment.before < 64 << 20, JSON.stringify(total.segment))
})
