// The process in which one peer is measured: a peer that crashes or hangs takes nobody with it.

import { cases } from './cases.mjs'

const [name, contextText] = process.argv.slice(2)
const context = JSON.parse(contextText)
let peer

const actions = {
  start: async () => {
    const adapter = await import(`./peers/${name}.mjs`)
    peer = await adapter.start(context)
    const sum = await peer.add?.(1, 2)
    if (sum !== undefined && sum !== 3) throw new Error(`add(1, 2) answered ${sum}`)
  },
  run: async ({ key, ms }) => {
    globalThis.gc()
    return cases[key](peer, { ms, name, context })
  },
  stop: () => peer?.stop(),
}

process.on('message', async ({ action, ...options }) => {
  try {
    process.send({ result: (await actions[action](options)) ?? null })
  } catch (error) {
    process.send({ error: String(error?.message ?? error) })
  }
  if (action === 'stop') process.disconnect()
})
process.on('disconnect', () => process.exit())
