import assert from 'node:assert/strict'
import { basename, dirname } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { nodes, nodeVersion, otherPythons, privateDirectory, python, runNode, serve } from './lib.mjs'

privateDirectory()
const here = name => fileURLToPath(new URL(name, import.meta.url))
const pythonName = program => basename(dirname(dirname(program))).replace('.venv', 'the main Python')

const pairs = [
  ...nodes.flatMap(node => ['main', 'worker'].map(place => [node, place, python])),
  ...otherPythons.map(program => [process.execPath, 'main', program]),
]

for (const [i, [node, place, program]] of pairs.entries()) {
  test(`Node ${nodeVersion(node)}, ${place} thread, with ${pythonName(program)}`, async t => {
    const host = await serve(here('host.py'), `table-${i}`, { program })
    t.after(host.stop)
    const run = await runNode(here('play.mjs'), [`table-${i}`, place], { node, ms: 60_000 })
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
