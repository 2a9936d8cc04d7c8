// The host of objects.py, which is there before the tests; what happened in it before a test is forgotten.

import { after, before, beforeEach } from 'node:test'
import { spawn } from 'isthmus'

export const app = new URL('./objects.py', import.meta.url)
export let py
before(async () => {
  py = await spawn(app, { memory: '64MiB' })
})
after(() => py.close())
beforeEach(() => py.call('take_events'))
