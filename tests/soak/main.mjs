// node tests/soak/main.mjs [--hours N | --seconds N] [--seed N]: until Ctrl-C if no time is given.

import { parseArgs } from 'node:util'
import { soak } from './soak.mjs'

const { values } = parseArgs({
  options: { hours: { type: 'string' }, seconds: { type: 'string' }, seed: { type: 'string' } },
})
const seconds = values.seconds ?? (values.hours === undefined ? Infinity : values.hours * 3600)
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 32))
const interrupt = new AbortController()
process.once('SIGINT', () => interrupt.abort())
process.once('SIGTERM', () => interrupt.abort())

console.log(`seed ${seed}; Ctrl-C ends it in good order`)
let shown = 0
const report = ({ handedOver, kills, lost, seconds }) => {
  if (seconds - shown < 10) return
  shown = seconds
  const rate = Math.round(handedOver / seconds)
  console.log(
    `${Math.round(seconds)} s: ${handedOver} hand-offs (${rate}/s), ${kills} kills, ${lost} calls lost to them`,
  )
}
const total = await soak({ seconds: Number(seconds), seed, report, signal: interrupt.signal })
report({ ...total, seconds: total.seconds + 10 })
for (const wrong of total.wrong) console.error(wrong)
console.log(
  total.wrong.length === 0 ? 'nothing was wrong, and all of the memory is back' : `wrong, with seed ${seed}`,
)
process.exitCode = total.wrong.length === 0 ? 0 : 1
