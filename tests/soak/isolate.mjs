// A JavaScript isolate of the soak, a process or a worker: BUS NAME SEED. It offers what host.py offers, and hands arrays to
// all the others until it is told to stop. It tells its controller what it has done ten times a second.

import { setTimeout as sleep } from 'node:timers/promises'
import { isMainThread, parentPort, workerData } from 'node:worker_threads'
import { connect, move, NDArray, release } from 'isthmus'
import { chance, kinds, stamp, verify } from './arrays.mjs'

const [bus, name, seed] = isMainThread ? process.argv.slice(2) : workerData
const lanes = 64
const most = { held: 200, kept: 200 }
const names = ['p', 'q', 'w', 'x']
const others = names.filter(each => each !== name)
const next = chance(Number(seed))
const py = await connect(bus)

const done = { handedOver: 0, lost: 0, wrong: [] }
const say = message => {
  if (isMainThread) process.stdout.write(`${JSON.stringify(message)}\n`)
  else parentPort.postMessage(message)
}

// --- what it offers ----------------------------------------------------------------------------------------

const kept = new Map()
const life = String(seed)
const verbs = {
  echo: array => verify(array, name),
  keep: (key, array, asView) => {
    verify(array, name)
    kept.set(key, asView ? viewOf(array) : array)
    return life
  },
  check: (key, whose) => {
    if (whose !== life) return // what an isolate that was killed has kept is gone
    verify(kept.get(key), name)
    kept.delete(key)
  },
  make: (shape, dtype) => make(shape[0], dtype),
  rewrite: array => stamp(verify(array, name), next),
  relay: async (array, [first, ...rest]) => {
    verify(array, name)
    return first === undefined ? array : verify(await py.call(`${first}.relay`, [array, rest]), name)
  },
  *some(count, shape, dtype) {
    for (let i = 0; i < count; i++) yield make(shape[0], dtype)
  },
  clear: () => {
    kept.clear()
  },
}
for (const [verb, f] of Object.entries(verbs)) py.export(`${name}.${verb}`, f)

// --- arrays ------------------------------------------------------------------------------------------------

const viewOf = array =>
  array instanceof NDArray ? new NDArray(array.data.subarray(0), array.shape, array.dtype) : array.subarray(0)

function make(length, dtype) {
  const [Type, , per] = kinds.find(kind => kind[1] === dtype)
  const data = py.alloc(Type, length * per)
  return stamp(isPlain(dtype) ? data : new NDArray(data, [length], dtype), next)
}
const isPlain = dtype => /^u?int\d+$|^float\d+$/.test(dtype)

/** Mostly small, now and then large: from 16 bytes to 16 MiB. */
function someBytes() {
  const draw = next(10_000)
  const [low, high] = draw < 7500 ? [4, 11] : draw < 9850 ? [11, 16] : draw < 9998 ? [16, 20] : [20, 24]
  return Math.floor(2 ** (low + (next(1024) / 1024) * (high - low)))
}

function someShape() {
  const [Type, dtype, per] = kinds[next(kinds.length)]
  const item = Type.BYTES_PER_ELEMENT * per
  return [[Math.max(Math.ceil(16 / item), Math.floor(someBytes() / item))], dtype]
}

// --- what it does with them --------------------------------------------------------------------------------

const held = []
/** An array's end: at once, when the garbage collector comes, or after a while, when it must still be what it was. */
function part(array) {
  const draw = next(20)
  if (draw < 10) release(array)
  else if (draw < 13) held.push(draw < 12 ? array : viewOf(array))
  if (held.length > most.held) {
    const [one] = held.splice(next(held.length), 1)
    verify(one, name)
    if (next(2)) release(one)
  }
}

const keptBy = []
async function recall() {
  const [peer, ...rest] = keptBy.splice(next(keptBy.length), 1)[0]
  await py.call(`${peer}.check`, rest)
}

const someone = () => others[next(others.length)]
let keys = 0

const moves = [
  [
    30,
    async peer => {
      const array = make(...given())
      const result = verify(await py.call(`${peer}.echo`, [array]), name)
      part(array)
      part(result)
      return 2
    },
  ],
  [
    25,
    async peer => {
      const array = make(...given())
      const key = `${name}${seed}-${++keys}`
      const keeping = py.call(`${peer}.keep`, [key, array, next(2) === 1])
      const isReleased = next(2) === 1 && release(array) // while it is under way
      const life = await keeping
      if (!isReleased) part(array)
      keptBy.push([peer, key, life])
      if (keptBy.length > most.kept) await recall()
      return 1
    },
  ],
  [
    15,
    async peer => {
      part(verify(await py.call(`${peer}.make`, [...someShape(), next(2) === 1]), name))
      return 1
    },
  ],
  [
    10,
    async peer => {
      const result = await py.call(`${peer}.rewrite`, [move(make(...given()))])
      part(verify(result, name))
      return 2
    },
  ],
  [
    15,
    async peer => {
      const array = make(...given())
      const way = Array.from(
        { length: 1 + next(3) },
        (_, i) => names[(names.indexOf(peer) + 1 + i) % names.length],
      )
      const back = verify(await py.call(`${peer}.relay`, [array, way]), name)
      part(array)
      part(back)
      return 2 * (way.length + 1)
    },
  ],
  [
    5,
    async peer => {
      let count = 0
      for await (const array of py.stream(`${peer}.some`, [1 + next(5), ...someShape()])) {
        part(verify(array, name))
        count++
      }
      return count
    },
  ],
]
const given = () => {
  const [[length], dtype] = someShape()
  return [length, dtype]
}
function someMove() {
  const draw = next(100)
  let below = 0
  for (const [weight, move] of moves) {
    below += weight
    if (draw < below) return move
  }
}

/** Who was killed may answer nothing, or not be there; anything else is wrong. */
function isLoss(error) {
  return /^(HostLostError|NotExportedError|PeerLost|NotExported)$/.test(error.type ?? error.name)
}
const attempt = async work => {
  try {
    const handedOver = await work()
    done.handedOver += handedOver ?? 0
  } catch (error) {
    if (isLoss(error)) done.lost++
    else done.wrong.push(error.stack)
  }
}

let stopping = false
async function lane() {
  while (!stopping) {
    const lost = done.lost
    await attempt(() => someMove()(someone()))
    if (done.lost > lost) await sleep(50)
  }
}

// --- begin and end -----------------------------------------------------------------------------------------

const report = setInterval(() => say(take()), 100)
function take() {
  const { handedOver, lost, wrong } = done
  Object.assign(done, { handedOver: 0, lost: 0, wrong: [] })
  return { handedOver, lost, wrong }
}

async function stop() {
  stopping = true
  await running
  while (keptBy.length > 0) await attempt(recall)
  for (const array of held.splice(0)) await attempt(() => void verify(array, name))
  clearInterval(report)
  say({ ...take(), stopped: true })
}

/** Lets go of everything, and stays. */
async function rest() {
  kept.clear()
  for (let i = 0; i < 4; i++) {
    global.gc()
    await sleep(5)
  }
  say({ resting: true })
}

const listen = isMainThread
  ? heard =>
      process.stdin
        .setEncoding('utf8')
        .on('data', heard)
        .on('end', () => process.exit())
  : heard => parentPort.on('message', heard)
const told = { stop, rest }
listen(word => told[word.trim()]())
say({ ready: true })
const running = Promise.all(Array.from({ length: lanes }, lane))
