// Keeps on handing over and killing: ./dev soak

import { seconds, seed } from './options.mjs'
import { soak } from './soak.mjs'

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
const total = await soak({ seconds, seed, report, signal: interrupt.signal })
report({ ...total, seconds: total.seconds + 10 })
for (const wrong of total.wrong) console.error(wrong)
console.log(
  total.wrong.length === 0 ? 'nothing was wrong, and all of the memory is back' : `wrong, with seed ${seed}`,
)
process.exitCode = total.wrong.length === 0 ? 0 : 1
