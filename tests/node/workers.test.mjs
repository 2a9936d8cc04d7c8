import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { inspect } from 'node:util'
import { ConnectError, connect, HostLostError, spawn } from 'isthmus'
import { isAlive, pythonWithInterpreters, run, until } from './support.mjs'

const app = fileURLToPath(new URL('../workers_app.py', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'isthmus-test-'))
after(() => rmSync(folder, { recursive: true }))
const patience = 30_000

/** Holds calls of `hold` back until it is opened. */
let gates = 0
function makeGate() {
  const path = join(folder, `gate${++gates}`)
  return {
    path,
    open: () => writeFileSync(path, ''),
    async holder() {
      const begun = `${path}.begun`
      await until(
        'a call has come to the gate',
        () => existsSync(begun) && readFileSync(begun).length > 0,
        patience,
      )
      return Number(readFileSync(begun, 'utf8'))
    },
  }
}

async function start(t, options, file = app) {
  const py = await spawn(file, options)
  t.after(() => py.close())
  return py
}

const parentOf = pid => Number(/^PPid:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1])

/** What workers answer: calls are made at the same time until there are so many different answers. */
async function answersOf(py, name, count) {
  const answers = new Set()
  const more = async () => {
    for (const answer of await py.callMany(name, Array(16 * count).fill([]))) answers.add(answer)
    return answers.size >= count
  }
  await until('all workers have answered', more, patience)
  return answers
}

const pidsOf = (py, count) => answersOf(py, 'pid', count)

/** The process that answers such calls once these are gone, and the errors of those that nobody answered meanwhile. */
async function successorOf(py, victims, options) {
  const failures = []
  let pid
  const isAnswered = async () => {
    try {
      pid = await py.call('pid', [], options)
      return !victims.has(pid)
    } catch (error) {
      failures.push(error)
      return false
    }
  }
  await until('another one has taken its place', isAnswered, patience)
  return { pid, failures }
}

test('a call goes to the worker with the least to do', async t => {
  const py = await start(t, { workers: 2 })
  const gate = makeGate()
  const held = py.call('hold', [gate.path])
  const holder = await gate.holder()
  for (let i = 0; i < 20; ++i) assert.notEqual(await py.call('pid'), holder)
  assert.notEqual(py.callSync('pid'), holder)
  gate.open()
  assert.equal(await held, holder)
})

test('a blocked isolate performs no callback of another call, whichever worker that is for', async t => {
  const py = await start(t, { workers: 2 })
  await pidsOf(py, 2)
  const keys = new Map()
  for (let key = 0; keys.size < 2; ++key) keys.set(await py.call('pid', [], { sticky: `${key}` }), `${key}`)
  const [first, second] = keys.values()
  for (const sticky of [first, second]) {
    const order = []
    const theirs = async pid => {
      order.push('the other')
      await new Promise(setImmediate)
      return pid
    }
    const own = pid => {
      order.push('its own')
      return pid
    }
    const other = py.call('call_back', [theirs], { sticky: first })
    const [holder] = py.callSync('call_back', [own], { sticky })
    assert.deepEqual(order, ['its own'])
    assert.equal(keys.get(holder), sticky)
    assert.equal(keys.get((await other)[0]), first)
  }
})

test('also when another isolate has made it busy', async t => {
  const py = await start(t, { workers: 2 })
  const gate = makeGate()
  const held = py.call('hold', [gate.path])
  const holder = await gate.holder()
  const others = await Promise.all([1, 2, 3].map(() => connect(py.name)))
  for (const other of others) {
    assert.notEqual(await other.call('pid'), holder)
    await other.close()
  }
  gate.open()
  await held
})

test('a killed worker loses its own calls and no others, and new calls go to the living', async t => {
  const py = await start(t, { workers: 2 })
  const one = makeGate()
  const two = makeGate()
  const lost = assert.rejects(py.call('hold', [one.path]), HostLostError)
  const kept = py.call('hold', [two.path])
  const [victim, other] = [await one.holder(), await two.holder()]
  assert.notEqual(victim, other)
  process.kill(victim, 'SIGKILL')
  await lost
  two.open()
  assert.equal(await kept, other)
  assert.equal(await py.call('pid'), other)
  await until('another one has taken its place', async () => (await pidsOf(py, 2)).size > 1, patience)
})

test('while nobody exports a name on a bus that lives, an error says that, and the next call may succeed', async t => {
  const py = await start(t, { workers: 1 })
  const guest = await connect(py.name)
  const other = await connect(py.name)
  const refused = name => ({
    name: 'HostLostError',
    message: `'${name}' was not sent: nobody serves it at the moment`,
  })
  other.export('other', () => 'other')
  await until('it is found', async () => (await guest.call('other').catch(() => {})) === 'other')
  await other.close()
  await assert.rejects(guest.call('other'), refused('other'))
  assert.throws(() => guest.callSync('other'), refused('other'))
  for (const caller of [guest, py]) {
    const victim = await caller.call('pid')
    process.kill(victim, 'SIGKILL')
    const { failures } = await successorOf(caller, new Set([victim]))
    assert.ok(failures.length > 0)
    const isRight = ({ name, message }) =>
      name === 'HostLostError' && (message === refused('pid').message || /was not answered/.test(message))
    assert.ok(failures.every(isRight), String(failures.find(each => !isRight(each))))
  }
  await guest.close()
})

test('arrays and callbacks reach whichever worker is called', async t => {
  const py = await start(t, { workers: 2 })
  const x = py.alloc(Float64Array, 100_000).fill(0.5)
  const gate = makeGate()
  const seen = new Set([(await py.call('total', [x]))[1]])
  const held = py.call('hold', [gate.path])
  await gate.holder()
  const [sum, pid] = await py.call('total', [x])
  assert.equal(sum, 50_000)
  const [told, own] = await py.call('call_back', [from => from])
  assert.equal(told, own)
  assert.equal(own, pid)
  gate.open()
  seen.add(await held)
  assert.ok(seen.size >= 1)
})

test('a key leads to one worker, and a sticky caller stays with one', async t => {
  const py = await start(t, { workers: 2 })
  const keys = Array.from({ length: 20 }, (_, i) => `key ${i}`)
  const places = () => Promise.all(keys.map(sticky => py.call('pid', [], { sticky })))
  const first = await places()
  assert.deepEqual(await places(), first)
  assert.deepEqual(
    keys.map(sticky => py.callSync('pid', [], { sticky })),
    first,
  )
  assert.equal(new Set(first).size, 2)
  const loyal = await connect(py.name, { sticky: true })
  assert.equal(new Set(await loyal.callMany('pid', Array(60).fill([]))).size, 1)
  assert.deepEqual(await Promise.all(keys.map(sticky => loyal.call('pid', [], { sticky }))), first)
  await loyal.close()
})

test('keys and sticky callers of a killed worker stay with another; keys turn to who takes its place', async t => {
  const broken = join(folder, 'broken')
  const fragile = join(folder, 'fragile.py')
  writeFileSync(
    fragile,
    `import pathlib\nassert not pathlib.Path(${JSON.stringify(broken)}).exists()\n${readFileSync(app)}`,
  )
  const py = await start(t, { workers: 3 }, fragile)
  const before = await pidsOf(py, 3)
  const loyal = await connect(py.name, { sticky: true })
  const home = await loyal.call('pid')
  let key = 0
  while ((await py.call('pid', [], { sticky: `${key}` })) !== home) ++key
  const sticky = `${key}`
  const gates = [makeGate(), makeGate()]
  const lost = [
    loyal.call('hold_on_loop', [gates[0].path]),
    py.call('hold_on_loop', [gates[1].path], { sticky }),
  ].map(call => assert.rejects(call, HostLostError))
  for (const gate of gates) assert.equal(await gate.holder(), home)
  writeFileSync(broken, '')
  process.kill(home, 'SIGKILL')
  await Promise.all(lost)

  const many = Array(40).fill([])
  for (const [caller, options] of [
    [loyal, {}],
    [py, { sticky }],
  ]) {
    const refuge = await caller.call('pid', [], options)
    assert.ok(refuge !== home && before.has(refuge))
    assert.deepEqual(new Set(await caller.callMany('pid', many, options)), new Set([refuge]))
    assert.equal(caller.callSync('pid', [], options), refuge)
  }
  const refuge = await loyal.call('pid')
  rmSync(broken)
  const { pid, failures } = await successorOf(py, before, { sticky })
  assert.deepEqual(failures, [])
  assert.deepEqual(new Set(await py.callMany('pid', many, { sticky })), new Set([pid]))
  assert.deepEqual(new Set(await loyal.callMany('pid', many)), new Set([refuge]))
  await loyal.close()
})

test('no call is lost while all workers are replaced', async t => {
  const py = await start(t, { workers: 2 })
  const before = await pidsOf(py, 2)
  const [supervisor] = [...before].map(parentOf)
  let done = false
  const call = async () => {
    while (!done) await py.call('pid')
  }
  const callMany = async () => {
    while (!done) await py.callMany('pid', Array(2000).fill([]))
  }
  const callers = [...Array.from({ length: 50 }, call), callMany()]
  process.kill(supervisor, 'SIGHUP')
  await until('the old workers have ended', () => ![...before].some(isAlive), patience)
  done = true
  await Promise.all(callers)
  const after = [...(await pidsOf(py, 2))]
  assert.ok(!after.some(pid => before.has(pid)))
  assert.deepEqual(after.map(parentOf), [supervisor, supervisor])
})

test('connect waits for a bus if asked', async t => {
  const bus = `waited-for-${process.pid}`
  await assert.rejects(connect(bus), ConnectError)
  await assert.rejects(connect(bus, { wait: 50 }), ConnectError)
  const waiting = connect(bus, { wait: 60_000 })
  await start(t, { bus })
  const other = await waiting
  assert.ok((await other.call('pid')) > 0)
  await other.close()
})

test('the workers end with the bus, and with the program, however it ends', async () => {
  const py = await spawn(app, { workers: 2 })
  const pids = await pidsOf(py, 2)
  await py.close()
  for (const pid of pids) await until('the worker has ended', () => !isAlive(pid), patience)
  let left
  await run(
    `import { spawn } from 'isthmus'
    const py = await spawn(${JSON.stringify(app)}, { workers: 2 })
    console.log(JSON.stringify(await py.callMany('pid', Array(32).fill([]))))
    setInterval(() => {}, 1000)`,
    {
      onOutput(child, out) {
        left = new Set(JSON.parse(out))
        child.kill('SIGKILL')
      },
    },
  )
  for (const pid of left) await until('the worker has ended', () => !isAlive(pid), patience)
})

const inInterpreters = { python: pythonWithInterpreters, workers: 2, workerKind: 'interpreter' }
const needsInterpreters = {
  skip: pythonWithInterpreters === undefined && 'none of .venvs is Python 3.12 or later',
}

test('two interpreters of a process are lost with it, and both answer again', needsInterpreters, async t => {
  const py = await start(t, inInterpreters)
  await answersOf(py, 'who', 2)
  const gates = [makeGate(), makeGate()]
  const lost = gates.map(gate => assert.rejects(py.call('hold', [gate.path]), HostLostError))
  const victims = new Set([await gates[0].holder(), await gates[1].holder()])
  assert.equal(victims.size, 1)
  const [victim] = victims
  const supervisor = parentOf(victim)
  process.kill(victim, 'SIGKILL')
  await Promise.all(lost)
  const { pid, failures } = await successorOf(py, victims)
  assert.ok(failures.every(error => error instanceof HostLostError))
  assert.equal(parentOf(pid), supervisor)
  await answersOf(py, 'who', 2)
  assert.deepEqual(await pidsOf(py, 1), new Set([pid]))
})

test('a module that no interpreter can load is refused with a way out', needsInterpreters, async t => {
  const refusal = /^numpy can't be loaded in a sub-interpreter: use .*workerKind: 'process'/
  const py = await start(t, inInterpreters)
  await assert.rejects(async () => await py.import('numpy'), {
    name: 'PythonError',
    type: 'ImportError',
    message: refusal,
  })
  const needy = join(folder, 'needy.py')
  writeFileSync(needy, 'import numpy\n')
  await assert.rejects(spawn(needy, inInterpreters), error => {
    assert.ok(error instanceof ConnectError)
    assert.match(error.message, /could not serve needy.py: ImportError: numpy can't be loaded/)
    assert.match(error.cause.message, refusal)
    return true
  })
})

test('workers that can not be had are refused with a sentence', async () => {
  for (const workers of [0, -1, 1.5, 64, Number.NaN, 'two', '2', null]) {
    await assert.rejects(spawn(app, { workers, python: '/nowhere' }), {
      name: typeof workers === 'number' ? 'RangeError' : 'TypeError',
      message: `workers is a whole number from 1 to 63, and not ${inspect(workers)}`,
    })
  }
  for (const workerKind of ['green', '', 2, null]) {
    await assert.rejects(spawn(app, { workers: 2, workerKind, python: '/nowhere' }), {
      name: 'TypeError',
      message: `workerKind is 'process', 'interpreter' or 'thread', and not ${inspect(workerKind)}`,
    })
  }
  await assert.rejects(spawn(app, { workers: 2, workerKind: 'thread' }), {
    name: 'ConnectError',
    message: /free-threaded build/,
  })
})
