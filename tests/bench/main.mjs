// The benchmark: isthmus and its peers on one machine in one run.

import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { json, keys, ms, peers, runs } from './options.mjs'
import { describe, killInstallers, preparePeer, prepareVenv } from './prepare.mjs'
import { killAll, Runner } from './processes.mjs'
import { machineLine, summarize, table } from './report.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const home = join(root, 'build/bench')

const tell = text => {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
  else if (text) process.stderr.write(`${text}\n`)
}

const scratch = mkdtempSync(join(tmpdir(), 'isthmus-bench-'))
const measured = []
const absent = []

function lose(peer, lost, error) {
  const reason = String(error.message).replaceAll(root, '').replaceAll(/\s+/g, ' ')
  for (const key of lost) {
    if (!absent.some(each => each.peer === peer && each.key === key)) absent.push({ key, peer, reason })
  }
}

async function prepare() {
  const python = join(root, '.venv/bin/python')
  if (!existsSync(python)) throw new Error('.venv is missing: run ./dev build first')
  const base = await describe(python)
  let venv
  const ready = []
  for (const name of peers) {
    const { install, can, environment } = await import(`./peers/${name}.mjs`)
    const own = keys.filter(key => can.some(prefix => key.startsWith(prefix)))
    try {
      if (install) venv ??= await prepareVenv(base, home, tell)
      const dir = install && (await preparePeer(name, install, venv, home, tell))
      const context = { dir, scratch, python: install ? venv.python : python }
      ready.push({ name, keys: new Set(own), context, environment: environment?.(venv) })
    } catch (error) {
      lose(name, own, error)
    }
  }
  return { base, ready }
}

async function start(peer) {
  if (peer.runner?.alive) return
  peer.runner = new Runner(peer.name, peer.context, peer.environment)
  try {
    await peer.runner.ask({ action: 'start' }, 60)
  } catch (error) {
    peer.runner.kill()
    lose(peer.name, peer.keys, error)
    peer.keys.clear()
  }
}

async function measure(peer, key) {
  try {
    measured.push({ key, peer: peer.name, metrics: await peer.runner.ask({ action: 'run', key, ms }, 120) })
  } catch (error) {
    peer.runner.kill()
    lose(peer.name, [key], error)
    peer.keys.delete(key)
  }
}

async function measureIdle(ready) {
  await setTimeout(1000)
  const before = ready.map(peer => peer.runner.cpuTime())
  const begin = performance.now()
  await setTimeout(2000)
  const elapsed = (performance.now() - begin) * 1e6
  for (const [i, peer] of ready.entries()) {
    if (!peer.runner.alive) {
      lose(peer.name, ['idle'], new Error('its process ended while idle'))
      continue
    }
    const after = peer.runner.cpuTime()
    const metrics = {}
    for (const side of Object.keys(after)) {
      metrics[`${side}_cpu_percent`] = [((after[side] - before[i][side]) / elapsed) * 100, '%']
    }
    measured.push({ key: 'idle', peer: peer.name, metrics })
  }
}

async function measureAll(all) {
  for (let run = 1; run <= runs; run++) {
    for (const key of keys) {
      const able = () => all.filter(peer => peer.keys.has(key))
      for (const peer of able()) {
        tell(`run ${run} of ${runs}: ${key}, ${peer.name}`)
        await start(peer)
        if (key !== 'idle' && peer.keys.has(key)) await measure(peer, key)
      }
      if (key === 'idle') await measureIdle(able())
    }
    await Promise.all(all.map(peer => peer.runner?.stop()))
  }
  tell('')
}

function report(base) {
  const rows = summarize(measured, absent)
  const shown = peers.filter(peer => rows.some(row => row.peer === peer && row.value !== null))
  console.log(`${machineLine(base)}\nmedians of ${runs} runs; × is peer / isthmus\n\n${table(rows, shown)}`)
  const reasons = new Map()
  for (const { peer, key, reason } of absent) {
    const measuredBefore = measured.some(each => each.peer === peer && each.key === key)
    const id = `${peer} ${measuredBefore ? 'failed in a later run' : 'is absent'}: ${reason}`
    reasons.set(id, [...(reasons.get(id) ?? []), key])
  }
  for (const [id, lost] of reasons) console.log(`\n${id} (${lost.join(', ')})`)
  if (json) writeFileSync(json, `${JSON.stringify(rows, null, 2)}\n`)
}

process.on('exit', () => {
  killAll()
  killInstallers()
  rmSync(scratch, { recursive: true })
})
for (const [signal, number] of [
  ['SIGINT', 2],
  ['SIGTERM', 15],
  ['SIGHUP', 1],
]) {
  process.on(signal, () => process.exit(128 + number))
}

try {
  const { base, ready } = await prepare()
  await measureAll(ready)
  report(base)
  process.exitCode = absent.some(({ peer }) => peer === 'isthmus') ? 1 : 0
} catch (error) {
  tell('')
  console.error(error.message)
  process.exitCode = 1
}
