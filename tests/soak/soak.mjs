// Hands arrays from peer to peer, and kills peers in between: two isolates (a process and a worker) and two Python hosts.
//
// Each array carries its checksum, each block is poisoned when it is free, and whoever gets an array looks. At the end everybody
// lets go and stays: nothing may be leased then, and all of the memory must be back.

import { Worker } from 'node:worker_threads'
import { spawn } from 'isthmus'
import { finish, privateDirectory, python, segmentBytes, start, until } from '../cross/lib.mjs'
import { chance } from './arrays.mjs'

const here = name => new URL(name, import.meta.url).pathname
const memory = '1GiB'

/** A peer that can be killed and started anew: `tell` what it is told, `kill` its violent end. */
const players = {
  p: host,
  q: host,
  w: worker,
  x: process_,
}

/** A program that says when it is ready, and ends when it hears no more. */
async function player(program, args, hear) {
  const child = start(program, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const listen = async () => {
    for (;;) hear(JSON.parse(await child.line()))
  }
  hear(JSON.parse(await child.line()))
  listen().catch(() => {}) // it has ended
  return {
    tell: word => child.say(word),
    kill: async () => {
      child.child.kill('SIGKILL')
      await child.ended
    },
    end: async () => {
      child.child.stdin.end()
      return finish(child, 10_000)
    },
  }
}

function host(bus, name, _, hear) {
  return player(python, [here('host.py'), bus, name], hear)
}

function process_(bus, name, seed, hear) {
  return player(process.execPath, ['--expose-gc', here('isolate.mjs'), bus, name, seed], hear)
}

async function worker(bus, name, seed, hear) {
  const isolate = new Worker(here('isolate.mjs'), { workerData: [bus, name, seed] })
  let failure
  isolate.on('error', error => {
    failure = error
    hear({ handedOver: 0, lost: 0, wrong: [error.stack] })
  })
  await new Promise((resolve, reject) => {
    isolate.once('message', resolve)
    isolate.once('exit', () => reject(failure ?? new Error('the worker ended')))
  })
  isolate.on('message', hear)
  return {
    tell: word => isolate.postMessage(word),
    kill: () => isolate.terminate(),
    end: () => isolate.terminate(),
  }
}

/**
 * Runs for so many seconds, and on until so many arrays were handed over, but not three times as long; or until `signal` is aborted.
 * `report` is called ten times a second with what was done so far. The answer tells how many arrays were handed over, how many
 * calls were lost to kills, and what was wrong: nothing, if all is well.
 */
export async function soak({ seconds, handOffs = 0, seed, report = () => {}, signal }) {
  const next = chance(seed)
  const total = { handedOver: 0, lost: 0, kills: 0, wrong: [] }
  privateDirectory()
  process.env.ISTHMUS_POISON = '1'
  process.env.OPENBLAS_NUM_THREADS = '1' // its threads would spin for nothing
  const py = await spawn(here('nobody.py'), { memory })
  const pid = await brokerOf(py)
  const before = { segment: segmentBytes(pid), ...(await py.stats()).memory }

  const living = {}
  const heard = { stopped: new Set(), resting: new Set() }
  const begin = async name => {
    living[name] = await players[name](py.name, name, String(next(2 ** 32)), message => {
      total.handedOver += message.handedOver ?? 0
      total.lost += message.lost ?? 0
      total.wrong.push(...(message.wrong ?? []))
      for (const state of ['stopped', 'resting']) if (message[state]) heard[state].add(name)
    })
  }
  const tellIsolates = async (word, state) => {
    for (const name of ['w', 'x']) living[name].tell(word)
    await until(`both isolates are ${state}`, 30_000, () => heard[state].size === 2)
  }

  try {
    // Hosts first: the isolates begin at once.
    for (const name of Object.keys(players)) await begin(name)
    const began = performance.now()
    const elapsed = () => (performance.now() - began) / 1000
    const isLongEnough = () => elapsed() >= (total.handedOver >= handOffs ? seconds : 3 * seconds)
    const over = () => isLongEnough() || signal?.aborted || total.wrong.length > 0
    // By what was done, not by the clock: to start anew costs as much as ten thousand hand-offs.
    const untilKill = () => total.handedOver + 5_000 + next(40_000)
    let killAt = untilKill()
    while (!over()) {
      report({ ...total, seconds: elapsed() })
      await new Promise(resolve => setTimeout(resolve, 100))
      if (total.handedOver < killAt) continue
      const names = Object.keys(players)
      const name = names[next(names.length)]
      await living[name].kill()
      await begin(name)
      total.kills++
      killAt = untilKill()
      report({ ...total, seconds: elapsed() })
    }
    total.seconds = elapsed()

    await tellIsolates('stop', 'stopped')
    for (const name of Object.keys(players)) await py.call(`${name}.clear`)
    await tellIsolates('rest', 'resting')
    // Everybody is there, and idle.
    let last
    await until('all of the memory is back', 15_000, async () => {
      last = (await py.stats()).memory
      return last.leased === 0 && last.free === before.bytes
    }).catch(() => total.wrong.push(`the memory is not back: ${JSON.stringify(last)}`))
    total.segment = { before: before.segment, after: segmentBytes(pid) }
  } finally {
    await Promise.all(Object.values(living).map(player => player.end()))
    await py.close()
  }
  return total
}

/** The process that holds the bus. */
async function brokerOf(py) {
  const { peers } = (await py.stats()).memory
  return peers.find(peer => peer.pid !== process.pid).pid
}
