// JavaScript reads no pickles: honest peers do not send it any, and it refuses those of others.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { spawn } from 'isthmus'
import { privateDirectory } from './lib.mjs'

privateDirectory()

test('a pickle that comes all the same is refused, and nothing else is', async () => {
  const py = await spawn(fileURLToPath(new URL('pickles_host.py', import.meta.url)), { bus: 'pickles' })
  const got = []
  py.export('take', value => void got.push(value))
  const [honest, hostile] = await py.call('send_pickles', ['pickles', 'take'])
  assert.match(honest, /args\[0\] is sent as a pickle, .* did not ask for pickles/)
  assert.match(hostile, /a pickle has arrived, which only a Python peer that asked for it reads/)
  assert.deepEqual(got, [1, 2])
  await py.close()
})
