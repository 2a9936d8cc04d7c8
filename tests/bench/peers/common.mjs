// What peers have in common: the cases that each of them can be measured in, and calls over a pipe or socket by hand.

import { createRequire } from 'node:module'

/** One call after the other, many at once, an array there and back, nothing to do; and that of four worker threads. */
export const basics = ['await', 'inflight', 'array', 'idle', 'workers-4']

/** The module of this name that `install` has put into `dir`. */
export const installed = (dir, name) => createRequire(`${dir}/package.json`)(name)

export const array = length => new Float64Array(length)

/** For those who have no way for bytes. */
export const base64 = {
  of: x => Buffer.from(x.buffer).toString('base64'),
  array: text => new Float64Array(Buffer.from(text, 'base64').buffer),
}

/** The calls that wait for an answer. Those of a turn are given to `send` in one list, each as [id, name, args]. */
export class Calls {
  #send
  #batch = []
  #nextId = 0
  #pending = new Map()

  constructor(send) {
    this.#send = send
  }

  call(name, args) {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++
      this.#pending.set(id, { resolve, reject })
      if (this.#batch.push([id, name, args]) === 1) queueMicrotask(() => this.#flush())
    })
  }

  #flush() {
    const batch = this.#batch
    this.#batch = []
    this.#send(batch)
  }

  answer([id, error, result]) {
    const { resolve, reject } = this.#pending.get(id)
    this.#pending.delete(id)
    if (error === null) resolve(result)
    else reject(new Error(error))
  }

  fail(message) {
    for (const { reject } of this.#pending.values()) reject(new Error(message))
  }
}
