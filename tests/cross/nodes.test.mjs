// The other files of this folder, on the Nodes that are not the one running them, with a quarter of the examples.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { nodes, runNode, runtimeName } from './lib.mjs'

const { NODE_TEST_CONTEXT, ...env } = { ...process.env, ISTHMUS_TEST_EXAMPLES: '0.25' }

for (const node of nodes.filter(each => runtimeName(each) !== `Node ${process.versions.node}`)) {
  for (const name of [
    'arrays',
    'callbacks',
    'cancel',
    'errors',
    'hops',
    'lifetimes',
    'property',
    'remote',
    'streams',
    'tables',
  ]) {
    test(`${name} on ${runtimeName(node)}`, async () => {
      const file = fileURLToPath(new URL(`${name}.test.mjs`, import.meta.url))
      const run = await runNode(file, [], { node, env, ms: 110_000 })
      assert.equal(run.code, 0, `${run.out}${run.err}`)
      assert.match(run.out, /^# fail 0$|^ℹ fail 0$/m)
    })
  }
}
