import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { ConnectError, connect, HostLostError, spawn } from 'isthmus'
import { app, delay, isAlive, root, run, until } from './support.mjs'

let py
let folder
before(async () => {
  py = await spawn(app)
  folder = await mkdtemp(join(tmpdir(), 'isthmus-test-'))
})
after(async () => {
  await py.close()
  await rm(folder, { recursive: true })
})

const imports = `import { connect, spawn } from 'isthmus'
import { setTimeout as delay } from 'node:timers/promises'
`

test('a program with an idle connection ends by itself, and its host with it', async () => {
  const { code, out, err } = await run(`${imports}
    const py = await spawn(${JSON.stringify(app)})
    console.log(await py.call('pid'))`)
  assert.deepEqual([code, err.replace(/isthmus: .*\n/g, '')], [0, ''])
  await until('the host has ended', () => !isAlive(Number(out)))
})

test('a program does not end before the calls in flight are answered', async () => {
  const { code, out } = await run(`${imports}
    const py = await connect(${JSON.stringify(py.name)})
    py.call('sleep', [0.3]).then(() => console.log('answered'))`)
  assert.deepEqual([code, out], [0, 'answered\n'])
})

test('unref lets a program end with calls in flight, ref keeps it until close', async () => {
  const started = performance.now()
  const unref = await run(`${imports}
    const py = await connect(${JSON.stringify(py.name)})
    py.unref().call('sleep', [5]).then(() => console.log('answered'))`)
  assert.deepEqual([unref.code, unref.out], [0, ''])
  assert.ok(performance.now() - started < 4000)
  const ref = await run(`${imports}
    const py = (await connect(${JSON.stringify(py.name)})).ref()
    setTimeout(() => py.close().then(() => console.log('closed')), 200).unref()`)
  assert.deepEqual([ref.code, ref.out], [0, 'closed\n'])
})

test('what exports something keeps its program alive until unref', async () => {
  const { code, out } = await run(`
    import { spawn } from 'isthmus'
    const py = await spawn(${JSON.stringify(app)})
    py.export('twice', x => 2 * x)
    setTimeout(() => {
      console.log('alive')
      py.unref()
    }, 50).unref()
  `)
  assert.deepEqual([code, out], [0, 'alive\n'])
})

test('the host ends when its parent is killed, also while it computes', async () => {
  for (const doing of ['add', 'compute']) {
    let host
    const { signal } = await run(
      `${imports}
      const py = await spawn(${JSON.stringify(app)})
      console.log(await py.call('pid'))
      py.call(${JSON.stringify(doing)}, [30, 30].slice(0, ${doing === 'add' ? 2 : 1}))
      setInterval(() => {}, 1000)`,
      {
        onOutput(child, out) {
          host = Number(out)
          setTimeout(() => child.kill('SIGKILL'), 50)
        },
      },
    )
    assert.equal(signal, 'SIGKILL')
    await until('the host has ended', () => !isAlive(host), 20_000)
  }
})

test('closing ends the host', async () => {
  const other = await spawn(app)
  const pid = await other.call('pid')
  await other.close()
  assert.equal(isAlive(pid), false)
})

test('nothing keeps a program running once its host has ended', async () => {
  const left = "console.log(process.getActiveResourcesInfo().filter(each => each === 'Timeout'))"
  const { out } = await run(`${imports}
    const py = await spawn(${JSON.stringify(app)})
    await py.close()
    ${left}
    await spawn('no_such_app').catch(() => {})
    ${left}`)
  assert.equal(out, '[]\n[]\n')
})

test('what the host prints is passed through as it is written', async () => {
  const seen = []
  const { out } = await run(
    `${imports}
    const py = await spawn(${JSON.stringify(app)})
    await py.call('say', ['first '])
    await delay(300)
    await py.call('say', ['second'])
    await py.close()`,
    { onOutput: (_, text) => seen.push(text) },
  )
  assert.equal(out, 'first second')
  assert.ok(seen.includes('first '), JSON.stringify(seen))
})

test('an app that can not be imported gives its traceback and what it printed', async () => {
  const broken = join(folder, 'broken.py')
  await writeFile(broken, "print('on its way')\nimport no_such_module\n")
  const { code, out } = await run(`${imports}
    await spawn(${JSON.stringify(broken)}).catch(error => console.log(JSON.stringify([error.name, error.code, error.message, error.cause.traceback])))`)
  assert.equal(code, 0)
  const [name, errorCode, message, traceback] = JSON.parse(out.slice(out.indexOf('[')))
  assert.deepEqual([name, errorCode], ['ConnectError', 'ERR_ISTHMUS_CONNECT'])
  assert.match(message, /could not serve broken\.py: ModuleNotFoundError: No module named 'no_such_module'/)
  assert.match(message, /on its way/)
  assert.match(traceback, /broken\.py", line 2/)
})

test('what keeps a host from starting is printed once, by who is told', async () => {
  const broken = join(folder, 'once.py')
  await writeFile(broken, "def prepare():\n    return {}['model']\n\nprepare()\n")
  for (const options of ['{}', '{ workers: 2 }']) {
    const handled = await run(`${imports}
      await spawn(${JSON.stringify(broken)}, ${options}).catch(error => console.log(error.message))`)
    assert.equal(handled.err, '')
    assert.match(handled.out, /could not serve once\.py: KeyError: 'model' \(.*once\.py, line 2\)\n$/)
    const uncaught = await run(`${imports} await spawn(${JSON.stringify(broken)}, ${options})`)
    assert.equal(uncaught.code, 1)
    assert.equal(uncaught.err.match(/Traceback/g).length, 1, uncaught.err)
  }
  const folderOf = await run(`${imports}
    await spawn('no_file.py', { cwd: ${JSON.stringify(folder)} }).catch(error => console.log(error.message))`)
  assert.match(
    folderOf.out,
    new RegExp(`: FileNotFoundError: there is no file no_file\\.py in ${folder}\\n$`),
  )
})

test('an interpreter that is none, and an app that is none, are named with the reason', async () => {
  const none = await run(`${imports}
    await spawn(${JSON.stringify(app)}, { python: '/no/such/python' }).catch(error => console.log(error.message))`)
  assert.match(none.out, /\/no\/such\/python \(from the option 'python'\) could not serve app\.py: .*ENOENT/)
  const byEnvironment = await run(
    `${imports} await spawn(${JSON.stringify(app)}).catch(error => console.log(error.name, error.message))`,
    { env: { ISTHMUS_PYTHON: '/no/such/python' } },
  )
  assert.match(byEnvironment.out, /^ConnectError \/no\/such\/python \(from \$ISTHMUS_PYTHON\)/)
  await assert.rejects(spawn(join(folder, 'nothing.py')), error => {
    assert.ok(error instanceof ConnectError)
    assert.match(error.message, /nothing\.py/)
    return true
  })
})

test('a Python without the package is told how to get it', async () => {
  const bare = join(folder, 'bare-python')
  await writeFile(
    bare,
    `#!/bin/sh\nexec ${JSON.stringify(process.env.ISTHMUS_PYTHON ?? 'python3')} -I -S "$@"\n`,
    { mode: 0o755 },
  )
  const advice = `has no package 'isthmus': install it with: ${bare} -m pip install ${join(root, 'adapters/python')}`
  await assert.rejects(spawn(app, { python: bare }), error => error.message.endsWith(advice))
})

test('options reach the host: environment, directory, memory and name', async () => {
  const file = join(folder, 'options.py')
  await writeFile(
    file,
    'import os\nimport isthmus\n\n@isthmus.export\ndef seen():\n    return [os.environ["FLAVOUR"], os.getcwd()]\n',
  )
  const other = await spawn(new URL(`file://${file}`), {
    env: { FLAVOUR: 'mint' },
    cwd: folder,
    memory: '8MiB',
    bus: `named-${process.pid}`,
  })
  assert.deepEqual(await other.call('seen'), ['mint', folder])
  assert.equal(other.name, `named-${process.pid}`)
  assert.throws(() => other.alloc(Uint8Array, 9 << 20), { code: 'ERR_ISTHMUS_BUS_FULL' })
  other.alloc(Uint8Array, 4 << 20)
  await other.close()
})

const chain = `
const { parentPort, workerData } = require('node:worker_threads')
const { connect } = require(workerData.isthmus)
;(async () => {
  const py = await connect(workerData.bus)
  let sum = 0
  for (let i = 0; i < workerData.calls; ++i) sum = await py.call('add', [sum, i])
  parentPort.postMessage(sum)
})()`

function work(data, code = chain) {
  const isthmus = new URL('../../adapters/node/dist/index.js', import.meta.url).pathname
  return new Worker(code, { eval: true, workerData: { bus: py.name, isthmus, ...data } })
}

test('workers are peers of their own, call at the same time and end', async () => {
  const sums = await Promise.all(
    Array.from({ length: 8 }, async () => {
      const worker = work({ calls: 100 })
      const [sum] = await Promise.all([
        new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject)),
        new Promise(resolve => worker.once('exit', resolve)),
      ])
      return sum
    }),
  )
  assert.deepEqual(sums, Array(8).fill(4950))
})

test('workers that are terminated in mid-call leave nothing behind', async () => {
  const waiting = {
    await: "await py.call('sleep', [0.2])",
    callSync: "py.callSync('sleep', [0.2])",
    endless: "for (;;) await py.call('add', [1, 2])",
    arrays:
      "const all = []; for (;;) all.push(py.alloc(Float64Array, 1000), await py.call('counting', [1000]))",
  }
  for (const [what, code] of Object.entries(waiting)) {
    const workers = Array.from({ length: 4 }, () =>
      work({}, chain.replace(/let sum[\s\S]*postMessage\(sum\)/, `parentPort.postMessage('ready'); ${code}`)),
    )
    await Promise.all(workers.map(worker => new Promise(resolve => worker.once('message', resolve))))
    await delay(20)
    const started = performance.now()
    await Promise.all(workers.map(worker => worker.terminate()))
    assert.ok(performance.now() - started < 1000, `${what}: ${performance.now() - started} ms`)
    assert.equal(await py.call('add', [1, 2]), 3)
  }
})

test('workers that are terminated while they connect leave their places free', async () => {
  for (let round = 0; round < 20; ++round) {
    const workers = Array.from({ length: 8 }, () => work({ calls: 10 }))
    await delay(round * 4)
    await Promise.all(workers.map(worker => worker.terminate()))
  }
  const others = await Promise.all(Array.from({ length: 30 }, () => connect(py.name)))
  await Promise.all(others.map(other => other.close()))
})

test('more isolates than a bus has places for are refused with a sentence', async () => {
  const others = []
  const refused = await (async () => {
    for (let i = 0; i < 64; ++i) {
      try {
        others.push(await connect(py.name))
      } catch (error) {
        return error
      }
    }
  })()
  assert.ok(refused instanceof ConnectError)
  assert.match(refused.message, /64 peers/)
  await Promise.all(others.map(other => other.close()))
  await until('a place is free again', () =>
    connect(py.name).then(
      other => other.close().then(() => true),
      () => false,
    ),
  )
})

test('process.exit, an uncaught error and a kill in mid-call leave the host serving', async () => {
  const program = end => `${imports}
    const py = await connect(${JSON.stringify(py.name)})
    const x = py.alloc(Float64Array, 100_000)
    const kept = await py.call('counting', [100_000])
    for (let i = 0; i < 100; ++i) py.call('total', [x])
    ${end}`
  const ends = {
    0: 'process.exit(0)',
    1: "setTimeout(() => { throw new Error('mine') }, 1); py.call('sleep', [0.1])",
    SIGKILL: "process.kill(process.pid, 'SIGKILL')",
    SIGABRT: 'process.abort()',
  }
  for (const [how, end] of Object.entries(ends)) {
    const { code, signal } = await run(program(end))
    assert.equal(String(signal ?? code), how)
    assert.equal(await py.call('add', [1, 2]), 3)
  }
})

test('an exception in a callback of a call is the program’s own', async () => {
  const { code, err } = await run(`${imports}
    process.on('uncaughtException', error => { console.error('caught', error.message) })
    const py = await connect(${JSON.stringify(py.name)})
    py.call('add', [1, 2]).then(() => { throw new Error('mine') })
    await delay(100)
    console.error(await py.call('add', [1, 2]))`)
  assert.equal(code, 0)
  assert.equal(err, 'caught mine\n3\n')
})

test('a host that stops in good order has lost the calls that it did not answer', async t => {
  const doomed = await spawn(app)
  t.after(() => doomed.close())
  const other = await connect(doomed.name)
  t.after(() => other.close())
  const lost = [doomed, other].map(each => assert.rejects(each.call('nap', [60]), HostLostError))
  const [pid] = await Promise.all([doomed.call('pid'), other.call('pid')])
  process.kill(pid, 'SIGTERM')
  await Promise.all(lost)
})

test('an exception in what follows a lost call spares the other calls that are lost', async () => {
  const doomed = await spawn(app)
  const pid = await doomed.call('pid')
  const { code, out } = await run(
    `${imports}
    process.on('uncaughtException', () => {})
    const py = await connect(${JSON.stringify(doomed.name)})
    const calls = Array.from({ length: 500 }, () => py.call('sleep', [60]))
    for (const call of calls) call.catch(() => process.nextTick(() => { throw new Error('mine') }))
    console.log('called')
    const ended = await Promise.allSettled(calls)
    console.log(ended.filter(each => each.reason.code === 'ERR_ISTHMUS_HOST_LOST').length)`,
    { onOutput: (_, text) => text === 'called\n' && process.kill(pid, 'SIGKILL') },
  )
  assert.deepEqual([code, out], [0, 'called\n500\n'])
  await doomed.close()
})

test('a message that there is no memory for ends its link, and not the process', async () => {
  const { code, signal, out } = await run(
    `${imports}
    import { execFileSync } from 'node:child_process'
    import { readFileSync } from 'node:fs'
    const py = await spawn(${JSON.stringify(app)}, { memory: '1GiB' })
    const { mul } = await py.import('operator')
    const kilobytes = Number(/VmSize:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1])
    execFileSync('prlimit', ['--pid', process.pid, '--as=' + (kilobytes + (128 << 10)) * 1024])
    await mul('x', 200 << 20).catch(error => console.log(error.code))
    await py.close()
    console.log('closed')`,
    { env: { MALLOC_ARENA_MAX: '1' } }, // else each thread reserves 64 MiB, and V8 ends a process whose collector has no room
  )
  assert.deepEqual([code, signal, out], [0, null, 'ERR_ISTHMUS_HOST_LOST\nclosed\n'])
})

test('AsyncLocalStorage follows the calls', async () => {
  const { AsyncLocalStorage } = await import('node:async_hooks')
  const storage = new AsyncLocalStorage()
  const seen = await Promise.all(
    [1, 2, 3].map(id => storage.run(id, async () => [await py.call('add', [id, 0]), storage.getStore()])),
  )
  assert.deepEqual(seen, [
    [1, 1],
    [2, 2],
    [3, 3],
  ])
})

test('timers and immediates have their turn while calls go back and forth', async () => {
  let turns = 0
  let running = true
  const calling = (async () => {
    while (running) await py.call('add', [1, 2])
  })()
  const turn = () => {
    ++turns
    if (running) setImmediate(turn)
  }
  turn()
  await until('immediates and timers had theirs', () => turns > 100, 60_000)
  running = false
  await calling
})

test('an idle connection costs no processor time', async () => {
  await py.call('add', [1, 2])
  const before = process.cpuUsage()
  await delay(500)
  const { user, system } = process.cpuUsage(before)
  assert.ok(user + system < 50_000, `${user + system} µs`)
})

test('connect without a name joins the bus of $ISTHMUS_BUS, and says what to do without', async () => {
  const program = `${imports}
    const py = await connect()
    console.log(py.name)
    await py.close()`
  const named = await run(program, { env: { ISTHMUS_BUS: py.name } })
  assert.deepEqual([named.code, named.out], [0, `${py.name}\n`])
  delete process.env.ISTHMUS_BUS
  await assert.rejects(connect(), error => {
    assert.ok(error instanceof ConnectError)
    return /ISTHMUS_BUS is not set: name the bus, like connect\('vision'\)/.test(error.message)
  })
})
