// A Node process that ends in the way it is told to: node child.mjs MODE ARG

import { fileURLToPath } from 'node:url'
import { connect, HostLostError, IsthmusError, spawn } from 'isthmus'

const [mode, argument] = process.argv.slice(2)
const app = fileURLToPath(new URL('host.py', import.meta.url))
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

async function child() {
  const py = await spawn(app)
  const pid = await py.call('pid')
  console.log(`host ${pid}`)
  return { py, pid }
}
const ended = call =>
  call.catch(error => {
    if (!(error instanceof IsthmusError)) throw error
  })

const modes = {
  async 'host-first'() {
    const { py, pid } = await child()
    const calls = [py.call('sleep', [0.05]), py.call('sleep', [0.05])].map(ended)
    process.kill(pid, 'SIGTERM')
    await Promise.all(calls)
    await py.close()
  },
  async 'process-first'() {
    const { py } = await child()
    for (let i = 0; i < 5; i++) ended(py.call('sleep', [30]))
    await sleep(20)
    process.exit(0)
  },
  async 'both-at-once'() {
    const { py, pid } = await child()
    ended(py.call('sleep', [0.1]))
    process.kill(pid, 'SIGTERM')
    await py.close()
  },
  async idle() {
    const { py } = await child()
    await py.call('add', [1, 2])
    console.log('done')
  },
  async 'idle-joined'() {
    const py = await connect(argument)
    console.log(await py.call('add', [1, 2]))
  },
  async 'in-flight'() {
    const { py } = await child()
    py.call('sleep', [0.5]).then(value => console.log(`answer ${value}`))
  },
  async ref() {
    const { py } = await child()
    py.ref()
    setTimeout(() => py.unref(), 500).unref()
  },
  async exit() {
    const { py } = await child()
    for (let i = 0; i < 100; i++) ended(py.call('sleep', [0.2]))
    py.call('echo', [new Float64Array(100_000)])
    setTimeout(() => process.exit(3), 50)
  },
  async 'exit-in-worker'() {
    const { Worker } = await import('node:worker_threads')
    const { py } = await child()
    const bus = argument
    const worker = new Worker(
      `const { workerData } = require('node:worker_threads')
       import('isthmus').then(async ({ connect }) => {
         const py = await connect(workerData)
         for (;;) { py.call('add', [1, 2]); await py.call('sleep', [0.001]); if (Math.random() < 0.05) process.exit(5) }
       })`,
      { eval: true, workerData: bus },
    )
    worker.on('exit', async code => {
      console.log(`worker ${code} ${await py.call('add', [1, 2])}`)
      await py.close()
    })
  },
  async uncaught() {
    const { py } = await child()
    for (let i = 0; i < 100; i++) ended(py.call('sleep', [0.2]))
    setTimeout(() => {
      throw new Error('nobody catches this')
    }, 50)
  },
  async unhandled() {
    const { py } = await child()
    py.call('no_such_export')
    await py.call('sleep', [5])
  },
  async 'throw-in-then'() {
    const { py } = await child()
    py.call('add', [1, 2]).then(() => {
      throw new Error('nobody catches this')
    })
    await py.call('sleep', [5])
  },
  async abort() {
    const { py } = await child()
    ended(py.call('sleep', [5]))
    setTimeout(() => process.abort(), 50)
  },
  /** Has arrays of its own and of the host, and waits to be killed. */
  async holds() {
    const py = await connect(argument)
    const held = []
    for (let i = 0; i < 8; i++) {
      held.push(py.alloc(Float64Array, 2 ** 20).fill(1), (await py.call('fresh', [2 ** 20])).fill(2))
    }
    for (;;) {
      ended(py.call('next', [held[0]]))
      console.log('holding')
      await sleep(20)
    }
  },
  /** Has objects of the host, has lent it callbacks, and waits to be killed. */
  async lends() {
    const py = await connect(argument)
    const many = Number(process.argv[4])
    const held = []
    for (let i = 0; i < many; i += 1000) {
      held.push(await py.call('things', [1000]))
      await py.call('keep_all', [Array.from({ length: 1000 }, (_, k) => x => x + i + k)])
    }
    console.log('holding')
    await sleep(60_000)
    console.log(held.length)
  },
  /** Reads a stream of the host, slowly, and waits to be killed. */
  async reads() {
    const py = await connect(argument)
    for await (const item of py.stream('forever')) {
      if (item === 5000) console.log('reading')
      if (item > 5000) await sleep(1000)
    }
  },
  /** Is read from, without an end, and dies. */
  async 'is-read'() {
    const py = await connect(argument)
    async function* source() {
      for (let i = 0; ; i++) {
        if (i === 20_000) process.kill(process.pid, 'SIGKILL')
        yield i
      }
    }
    py.post('read_and_keep', [source()])
  },
  async 'dies-in-callback'() {
    const py = await connect(argument)
    await py.call('apply', [() => process.kill(process.pid, 'SIGKILL')])
  },
  /** Its host works (argument: how), and it waits to be killed. */
  async parent() {
    const { py } = await child()
    if (argument !== 'idle') ended(py.call(argument, [10]))
    await sleep(100)
    console.log('working')
    await sleep(10_000)
  },
  /** Calls nothing for a while. */
  async rest() {
    const { py } = await child()
    await py.call('add', [1, 2])
    const timer = setInterval(() => {}, 2 ** 30)
    process.stdin.on('data', async () => {
      clearInterval(timer)
      console.log(await py.call('add', [1, 2]))
      await py.close()
      process.exit()
    })
    console.log('resting')
  },
  async 'host-dies'() {
    const { py, pid } = await child()
    const call = py.call('sleep', [10])
    process.kill(pid, 'SIGKILL')
    await call.catch(error => console.log(error instanceof HostLostError))
  },
}

await modes[mode]()
