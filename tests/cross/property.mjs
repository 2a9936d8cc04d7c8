// Who gives back what it gets, before the tests: the host of property_host.py, and another isolate.

import { after, before } from 'node:test'
import { fileURLToPath } from 'node:url'
import { spawn } from 'isthmus'
import { meet, privateDirectory } from './lib.mjs'

privateDirectory()
export let py
export let js
before(async () => {
  py = await spawn(fileURLToPath(new URL('property_host.py', import.meta.url)))
  js = await meet('javascript')
})
after(() => Promise.all([py?.close(), js?.part()]))
