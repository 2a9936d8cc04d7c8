// Hands arrays over, releases them, and never runs again.

import { parentPort, workerData } from 'node:worker_threads'
import { connect, release } from 'isthmus'

const [bus, pieces, piece] = workerData
const py = await connect(bus)
const arrays = Array.from({ length: pieces }, () => py.alloc(Uint8Array, piece).fill(1))
for (const array of arrays) py.callSync('total', [array])
for (const array of arrays) release(array)
parentPort.postMessage('done')
Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
