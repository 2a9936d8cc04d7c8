// A pipeline of four stages in six processes, one of which is killed every second; and what becomes of them when `up` is killed.

import assert from 'node:assert/strict'
import { spawn as spawnProcess } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { connect } from 'isthmus'
import { isAlive, until } from '../node/support.mjs'
import { deliveries, expected, frames, readRecord, recordBytes } from './pipeline/frames.mjs'

const python = process.env.ISTHMUS_PYTHON
const file = name => fileURLToPath(new URL(`./pipeline/${name}`, import.meta.url))
const stages = [
  { name: 'source', command: [process.execPath, file('source.mjs')] },
  { name: 'detect', command: [python, file('detect.py')], workers: 3 },
  { name: 'aggregate', command: [python, file('aggregate.py')] },
  { name: 'sink', command: [process.execPath, file('sink.mjs')] },
]
const frameBytes = 1 << 20

/** `isthmus up` of these stages; `processes` has who runs now, by name. */
function up(t) {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-test-'))
  const bus = `pipeline-${process.pid}-${t.name.length}`
  const results = join(folder, 'results')
  writeFileSync(results, Buffer.alloc(frames * recordBytes))
  const text = stages.map(
    ({ name, command, workers = 1 }) =>
      `[[stage]]\nname = "${name}"\ncommand = ${JSON.stringify(command)}\nworkers = ${workers}\nenv = { RESULTS = "${results}" }\n`,
  )
  writeFileSync(
    join(folder, 'pipeline.toml'),
    [`[bus]\nname = "${bus}"\nmemory = "512MiB"\n`, ...text].join('\n'),
  )
  const child = spawnProcess(python, ['-m', 'isthmus', 'up', join(folder, 'pipeline.toml')], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const processes = new Map()
  let log = ''
  child.stdout.setEncoding('utf8').on('data', chunk => {
    log += chunk
    for (const [, name, pid] of log.matchAll(/(\w+\.\d) \(pid (\d+)\)(?= is started|,|$)/gm))
      processes.set(name, Number(pid))
  })
  const ended = new Promise(resolve => child.on('close', (code, signal) => resolve({ code, signal, log })))
  t.after(async () => {
    child.kill('SIGKILL')
    await ended
    rmSync(folder, { recursive: true })
  })
  return { bus, child, ended, processes, results: () => readFileSync(results), log: () => log }
}

test('every frame arrives, uncopied, while a process is killed every second', async t => {
  const { bus, child, ended, processes, results, log } = up(t)
  const own = await connect(bus, { wait: 60_000 })
  await until('all have been started', () => processes.size === 6, 60_000)
  const jobs = own.queue('jobs', { deliveries })

  // Before each kill there is something to do, and after it: so many jobs for each.
  const names = [...processes.keys()]
  const portion = 700
  let kills = 0
  for (let next = 0; next < frames; ++kills) {
    const second = delay(1000)
    for (const end = Math.min(next + portion, frames); next < end; ++next) await jobs.put(next)
    const keeper = (await own.stats()).memory.peers.find(({ name }) => name === 'isthmus queues')
    assert.equal(keeper.owned, 0, 'a copy that it had made of a frame would be its own')
    const name = names[kills % names.length]
    const pid = processes.get(name)
    await second
    process.kill(pid, 'SIGKILL')
    await until(`${name} is started again`, () => processes.get(name) !== pid, 60_000)
  }

  const found = () => Array.from({ length: frames }, (_, at) => readRecord(results(), at))
  await until('all have arrived', () => found().every(({ number }) => number >= 0), 120_000).catch(error => {
    throw new Error(`${found().filter(({ number }) => number < 0).length} frames are missing: ${log()}`, {
      cause: error,
    })
  })
  for (const [at, { number, sum, copied }] of found().entries()) {
    assert.deepEqual({ number, sum, copied }, { number: at, sum: expected(at), copied: 0 })
  }
  await until(
    'the memory of all frames is free',
    async () => (await own.stats()).memory.leased < frameBytes,
    30_000,
  )
  t.diagnostic(`${kills} kills`)
  assert.ok(kills >= 2 * names.length)
  await own.close()
  child.kill('SIGTERM')
  assert.equal((await ended).code, 0)
})

test('when `up` is killed, so is all that it has started, in either language', async t => {
  const { bus, child, ended, processes } = up(t)
  await (await connect(bus, { wait: 60_000 })).close()
  await until('all have been started', () => processes.size === 6, 60_000)
  const pids = [...processes.values()]
  assert.ok(pids.every(isAlive))
  child.kill('SIGKILL')
  await ended
  await until('nobody is left', () => !pids.some(isAlive), 20_000)
})
