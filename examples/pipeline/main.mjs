// Runs the pipeline, gives it photographs, and shows what comes out: node examples/pipeline/main.mjs --help

import { spawn } from 'node:child_process'
import { createWriteStream, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { delimiter, dirname, join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { connect } from 'isthmus'

const here = import.meta.dirname
const help = `node examples/pipeline/main.mjs [options]

Node decodes photographs, three Python processes look for faces, edges and colours, one more brings
together what they have found, and Node writes it down.

  --kill       kill each process twice meanwhile, one every half a second: the results are the same
  --out DIR    where the results and the log go (examples/pipeline/out)
  --help       this page`

const { values: options } = parseArgs({
  options: {
    kill: { type: 'boolean', default: false },
    out: { type: 'string', default: join(here, 'out') },
    help: { type: 'boolean', default: false },
  },
})

/** Starts the stages; `processes` has the process of each, by name. */
function up(out) {
  const python = process.env.ISTHMUS_PYTHON ?? 'python3'
  const child = spawn(python, ['-m', 'isthmus', 'up', join(here, 'pipeline.toml')], {
    env: { ...process.env, OUT: out, PATH: [dirname(process.execPath), process.env.PATH].join(delimiter) },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const processes = new Map()
  const log = createWriteStream(join(out, 'pipeline.log'))
  let said = ''
  child.stdout.setEncoding('utf8').on('data', text => {
    log.write(text)
    said += text
    const lines = said.split('\n')
    said = lines.pop()
    for (const line of lines.filter(line => line.startsWith('isthmus | '))) {
      for (const [, name, pid] of line.matchAll(/(\w+\.\d) \(pid (\d+)\)(?= is started|,|$)/g))
        processes.set(name, Number(pid))
    }
  })
  const ended = new Promise(done => child.on('close', code => done(code)))
  return { child, ended, processes }
}

async function killEachTwice(processes) {
  while (processes.size === 0) await delay(10)
  const names = [...processes.keys()]
  for (const name of [...names, ...names]) {
    await delay(500)
    const before = processes.get(name)
    process.kill(before, 'SIGKILL')
    while (processes.get(name) === before) await delay(10)
  }
}

async function main({ out, kill }) {
  rmSync(out, { recursive: true, force: true })
  mkdirSync(out, { recursive: true })
  const { child, ended, processes } = up(out)
  const early = ended.then(code => {
    throw new Error(`the pipeline has ended with code ${code}: see ${join(out, 'pipeline.log')}`)
  })
  early.catch(() => {})
  try {
    const bus = await Promise.race([connect('pipeline-example', { wait: 60_000 }), early])
    const photographs = await bus.call('photographs')
    const jobs = bus.queue('jobs', { deliveries: 100 }) // a message may meet many processes that are killed
    for (const photograph of photographs) await jobs.put(photograph)
    if (kill) await Promise.race([killEachTwice(processes), early])

    const files = photographs.map(({ name }) => join(out, `${name}.json`))
    while (!files.every(existsSync)) await Promise.race([delay(50), early])
    console.log('photograph   faces   edges   colour')
    for (const file of files) {
      const { name, faces, edges, colour } = JSON.parse(readFileSync(file, 'utf8'))
      console.log(
        `${name.padEnd(10)}${`${faces}`.padStart(8)}${`${edges} %`.padStart(8)}${colour.padStart(10)}`,
      )
    }
    await bus.close()
  } finally {
    child.kill('SIGTERM')
    await ended
  }
}

if (options.help) console.log(help)
else await main({ ...options, out: resolve(options.out) })
