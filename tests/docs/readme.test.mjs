import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const root = new URL('../../', import.meta.url)
const readme = readFileSync(new URL('README.md', root), 'utf8')
const blocks = (language, text = readme) =>
  [...text.matchAll(new RegExp(`\`\`\`${language}\n(.*?)\`\`\``, 'gs'))].map(m => m[1])

test('the first screen of the README runs as it stands, and prints what its comments say', async () => {
  const folder = new URL('build/docs/', root) // inside of the repository, where `isthmus` is found
  mkdirSync(folder, { recursive: true })
  writeFileSync(new URL('app.py', folder), blocks('python')[0])
  writeFileSync(new URL('hello.mjs', folder), blocks('js')[0])
  const { stdout, stderr } = await promisify(execFile)(process.execPath, ['hello.mjs'], { cwd: folder })
  assert.equal(stdout, 'Hello from Python, JavaScript!\n500000\n')
  assert.equal(stderr, '')
})

test('the TypeScript of the guides compiles, and its types find what does not fit', async () => {
  const folder = new URL('build/docs/', root)
  mkdirSync(folder, { recursive: true })
  const [typed] = blocks('ts', readFileSync(new URL('docs/crossing.md', root), 'utf8'))
  const tsc = fileURLToPath(new URL('node_modules/.bin/tsc', root))
  const compile = async text => {
    writeFileSync(new URL('typed.mts', folder), text)
    const options =
      '--noEmit --strict --module node20 --target es2022 --types node --lib es2022,esnext.disposable'
    return promisify(execFile)(tsc, [...options.split(' '), 'typed.mts'], { cwd: folder }).catch(
      error => error,
    )
  }
  assert.equal((await compile(typed)).stdout, '')
  assert.match(
    (await compile(typed.replace("call('total'", "call('totl'"))).stdout,
    /Argument of type '"totl"' is not assignable to parameter of type 'NameOf<\{ total/,
  )
})

test('every name that the README imports is there', async () => {
  const isthmus = await import('isthmus')
  for (const [, names] of readme.matchAll(/import \{ (.*?) \} from 'isthmus'/g)) {
    for (const name of names.split(', ')) assert.ok(name in isthmus, name)
  }
})
