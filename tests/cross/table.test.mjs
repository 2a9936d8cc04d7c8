// Each pair of players plays the whole table.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import {
  evaluate,
  finish,
  nodes,
  otherPythons,
  privateDirectory,
  python,
  runtimeName,
  serve,
  start,
} from './lib.mjs'
import { asData } from './table.mjs'

const directory = privateDirectory()
const here = name => fileURLToPath(new URL(name, import.meta.url))

// Two tables, as not every Node has a Float16Array.
const plain = { ISTHMUS_TABLE: join(dirname(directory), 'table.json'), ISTHMUS_TABLE_FLOAT16: '' }
writeFileSync(plain.ISTHMUS_TABLE, JSON.stringify(asData()))
const withFloat16 = { ISTHMUS_TABLE: join(dirname(directory), 'table16.json'), ISTHMUS_TABLE_FLOAT16: 'yes' }
const hasFloat16 = Object.fromEntries(
  [...new Set([process.execPath, ...nodes])].map(node => [
    node,
    evaluate(node, 'typeof Float16Array') !== 'undefined',
  ]),
)
const newest = nodes.find(node => hasFloat16[node])
if (newest) {
  const table = JSON.stringify(here('table.mjs'))
  const script = `import(${table}).then(table => console.log(JSON.stringify(table.asData())))`
  const env = { ...process.env, ...withFloat16 }
  writeFileSync(withFloat16.ISTHMUS_TABLE, execFileSync(newest, ['-e', script], { env, maxBuffer: 1 << 28 }))
}

const js = (node, place) => ({ language: 'javascript', program: node, place })
const py = program => ({ language: 'python', program })
const thisNode = js(process.execPath, 'main')
const nameOf = ({ language, program, place }) =>
  language === 'python'
    ? `Python ${basename(dirname(dirname(program))).replace('.venv', '(the main one)')}`
    : `${runtimeName(program)} (${place})`

const pairs = [
  ...nodes.flatMap(node => ['main', 'worker'].map(place => [js(node, place), py(python)])),
  ...otherPythons.map(program => [thisNode, py(program)]),
  ...nodes.map(node => [py(python), js(node, 'main')]),
  ...[python, ...otherPythons].map(program => [py(program), js(process.execPath, 'worker')]),
  ...nodes.map(node => [js(node, 'main'), js(process.execPath, 'main')]),
  [js(process.execPath, 'worker'), js(nodes[0], 'worker')],
  ...[python, ...otherPythons].map(program => [py(program), py(python)]),
]

/** A JavaScript player that is called. */
async function offer(role, bus, { program, place }) {
  const player = start(program, [here('player.mjs'), role, bus, place])
  assert.equal(await player.line(), '{"ready":true}')
  return async () => {
    player.child.stdin.end()
    const { code } = await player.ended
    assert.deepEqual([code, player.err], [0, ''])
  }
}

const play = (bus, { language, program, place }, callee) =>
  finish(
    language === 'python'
      ? start(program, [here('player.py'), bus, callee.language])
      : start(program, [here('player.mjs'), 'caller', bus, place, callee.language]),
    300_000,
  )

for (const [i, [caller, callee]] of pairs.entries()) {
  test(`${nameOf(caller)} calls ${nameOf(callee)}`, async t => {
    const bus = `table-${i}`
    const isSource = callee.language === 'javascript' && caller.language === 'python'
    const scripts = [caller, callee, ...(isSource ? [thisNode] : [])].filter(each => each.place)
    Object.assign(
      process.env,
      scripts.length > 0 && scripts.every(each => hasFloat16[each.program]) ? withFloat16 : plain,
    )
    const isPython = callee.language === 'python'
    const host = await serve(here(isPython ? 'player.py' : 'nobody.py'), bus, {
      program: isPython ? callee.program : python,
    })
    t.after(host.stop)
    if (!isPython) t.after(await offer('callee', bus, callee))
    else if (caller.language === 'python') t.after(await offer('source', bus, thisNode))
    const run = await play(bus, caller, callee)
    const played = run.out
      .trim()
      .split('\n')
      .map(line => JSON.parse(line))
    const { rows } = played.pop()
    for (const { name, failures } of played) await t.test(name, () => assert.deepEqual(failures, []))
    assert.deepEqual({ code: run.code, signal: run.signal, err: run.err }, { code: 0, signal: null, err: '' })
    assert.equal(played.length, rows)
  })
}
