// What `./dev bench` takes. Nothing has to be built to look at it.

import { existsSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { optionsOf, usage } from '../options.mjs'
import { cases } from './cases.mjs'

const allPeers = ['isthmus', 'pymport', 'pythonia', 'msgpackr', 'jsonlines', 'zeromq', 'processes']

const help = `usage: ./dev bench [--quick] [--json FILE] [--only CASE,…] [--peers PEER,…]

Measures add(1, 2), arrays and pipelines through isthmus and its peers, and prints medians of several runs.

  --quick        3 short runs instead of 5 longer ones
  --json FILE    write the medians as a list of {case, peer, metric, value, unit}
  --only CASE    only these cases, or all whose names begin so:
                 ${Object.keys(cases).join(' ')}
  --peers PEER   only these peers: ${allPeers.join(' ')}
  --help         this text

A peer that can't be installed, built or run is a row with the metric "absent", the value null and a reason.
The ratios in the table are peer / isthmus. A call's time includes one read of the clock, some 40 ns.
wakes_per_call and bytes_copied (bytes of payload per call) are of both sides together; idle is the CPU
time of Node and of its Python children over two seconds without a call. of_numpy_alone is how many times what
x * 2 takes in Python on warm memory the call takes; of_memcpy, the part of memcpy's bandwidth that is used.
flood-30: latencies of 30 isolates that call now and then: alone, beside an isolate that floods a host of its own, and while
it floods theirs. inference: 64 HTTP clients of a scikit-learn model that is called for each request, and for batches of them.`

const values = optionsOf(help, { quick: 'boolean', json: 'string', only: 'string', peers: 'string' })
const list = text => text?.split(',').filter(Boolean)

const asked = list(values.peers) ?? allPeers
const stranger = asked.find(peer => !allPeers.includes(peer))
if (stranger) usage(`no peer is called '${stranger}'`)
export const peers = allPeers.filter(peer => asked.includes(peer))

const only = list(values.only)
const nothing = only?.find(name => !Object.keys(cases).some(key => key.startsWith(name)))
if (nothing) usage(`no case is called '${nothing}'`)
export const keys = Object.keys(cases).filter(key => only?.some(name => key.startsWith(name)) ?? true)

if (values.json && !existsSync(dirname(resolve(values.json)))) usage(`--json ${values.json}: no such folder`)
export const json = values.json && resolve(values.json)

export const { runs, ms } = values.quick ? { runs: 3, ms: 400 } : { runs: 5, ms: 2000 }
