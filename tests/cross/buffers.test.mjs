// The memory of a bus is one SharedArrayBuffer in each isolate, in both ways that there are: the engine's own function for it, and
// a growable buffer over whose pages the memory is mapped. Above 4 GiB where the engine has such buffers.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { finish, nodes, privateDirectory, root, runtimeName, start } from './lib.mjs'

privateDirectory()
const { NODE_TEST_CONTEXT: _, ...own } = process.env
const program = new URL('buffers.mjs', import.meta.url).pathname
const gib = 2 ** 30
const available = Number(readFileSync('/proc/meminfo', 'utf8').match(/MemAvailable:\s+(\d+)/)[1]) * 1024
const large = Math.max(gib / 4, Math.min(2.25 * gib, Math.floor(available / 5)))

/** The ways that a runtime has, its own choice first. */
function waysOf(name) {
  if (/^(Node 20|Deno )/.test(name)) return ['overlay']
  return name.startsWith('Bun ') ? ['external'] : ['external', 'overlay']
}

for (const node of nodes) {
  const name = runtimeName(node)
  const isSmall = /^(Node 20|Bun )/.test(name)
  for (const [i, way] of waysOf(name).entries()) {
    const env = i === 0 ? own : { ...own, ISTHMUS_SHARED_ARRAY_BUFFER: way }
    const run = args => finish(start(node, args, { cwd: root, env }), 120_000)
    const play = async (memory, bytes) => {
      const { out, err } = await run([program, String(memory), String(bytes)])
      assert.ok(out, err)
      return JSON.parse(out)
    }
    const goesThereAndBack = async (memory, bytes) => {
      const played = await play(memory, bytes)
      assert.equal(played.message, undefined)
      for (const { seen, growable, copied } of [played.main, played.worker]) {
        assert.equal(growable, way === 'overlay')
        for (const [i, { there, back, at }] of seen.entries()) {
          assert.deepEqual(there, [bytes, 10 + i, 20 + i])
          assert.deepEqual(back, [bytes, 10 + i, 30 + i, 20 + i])
          assert.ok(at >= i * bytes)
        }
        assert.equal(copied, 0)
      }
      assert.ok(played.mapped > 0)
    }

    test(`${name}, ${way}: two isolates see what Python sees, and unmap it at their ends`, () =>
      goesThereAndBack(gib, 16 << 20))

    if (isSmall) {
      test(`${name}, ${way}: it is told that it can't join a bus of 16 GiB, and what to do`, async () => {
        const { code, message } = await play(16 * gib, 1)
        assert.equal(code, 'ERR_ISTHMUS_CONNECT')
        assert.ok(
          message.includes(`has 16 GiB of memory, and a buffer of this engine (${name}) holds at most 4 GiB`),
          message,
        )
        assert.match(message, /serve it with --memory 4GiB, or use Node 22 or later$/)
      })
    } else {
      test(`${name}, ${way}: arrays of ${Math.round(large / 2 ** 20)} MiB go there and back`, () =>
        goesThereAndBack(16 * gib, large))
    }

    if (i > 0) {
      test(`${name}, ${way}: arrays live and end as they do in the other way`, async () => {
        const tests = ['arrays', 'ndarray'].map(file => `tests/node/${file}.test.mjs`)
        const { code, out } = await run(['--expose-gc', '--test', ...tests])
        assert.equal(code, 0, out.slice(-5000))
      })
    }
  }
  if (name.startsWith('Bun ')) {
    test(`${name} is refused without the engine's function, as its buffers would share memory with others`, async () => {
      const env = { ...own, ISTHMUS_SHARED_ARRAY_BUFFER: 'overlay' }
      const { out } = await finish(start(node, [program, String(gib), '1'], { env }), 30_000)
      assert.deepEqual(JSON.parse(out), {
        code: 'ERR_ISTHMUS_CONNECT',
        message: `${name} can't wrap the memory of a bus: use the newest Bun`,
      })
    })
  }
}
