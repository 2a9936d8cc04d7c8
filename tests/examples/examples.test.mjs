import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { crc32 } from 'node:zlib'
import sharp from 'sharp'

const root = resolve(import.meta.dirname, '../..')

function start(...args) {
  const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
  const said = { out: '', err: '' }
  child.stdout.setEncoding('utf8').on('data', text => {
    said.out += text
  })
  child.stderr.setEncoding('utf8').on('data', text => {
    said.err += text
  })
  const ended = new Promise(done => child.on('close', (code, signal) => done({ ...said, code, signal })))
  const until = pattern =>
    Promise.race([
      ended.then(({ out, err }) => assert.fail(`ended before it said ${pattern}: ${out}${err}`)),
      new Promise(done => {
        const look = () => pattern.test(said.out) && done()
        child.stdout.on('data', look)
        look()
      }),
    ])
  return { child, ended, until }
}

const run = (...args) => start(...args).ended

function assertSound(png) {
  assert.equal(png.subarray(0, 8).toString('latin1'), '\x89PNG\r\n\x1a\n')
  const kinds = []
  let at = 8
  while (at < png.length) {
    const length = png.readUInt32BE(at)
    const body = png.subarray(at + 4, at + 8 + length)
    assert.equal(crc32(body), png.readUInt32BE(at + 8 + length))
    kinds.push(body.toString('latin1', 0, 4))
    at += 12 + length
  }
  assert.equal(kinds[0], 'IHDR')
  assert.equal(kinds.at(-1), 'IEND')
  return { width: png.readUInt32BE(16), height: png.readUInt32BE(20) }
}

async function assertPicture(file, size) {
  assert.deepEqual(assertSound(readFileSync(file)), size, file)
  const { channels } = await sharp(file).stats()
  assert.ok(
    channels.some(channel => channel.stdev > 1),
    `${file} is blank`,
  )
}

for (const name of ['hello', 'remote', 'inference']) {
  test(`${name} says what is expected`, async () => {
    const { out, err, code } = await run(`examples/${name}/${name}.mjs`)
    assert.equal(err, '')
    assert.equal(out, readFileSync(join(root, `examples/${name}/expected.txt`), 'utf8'))
    assert.equal(code, 0)
  })
}

describe('pipeline', () => {
  const expected = readFileSync(join(root, 'examples/pipeline/expected.txt'), 'utf8')
  const { XDG_RUNTIME_DIR } = process.env
  let folder
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'isthmus-pipeline-'))
    process.env.XDG_RUNTIME_DIR = folder // its bus has a name that others may use
  })
  after(() => {
    if (XDG_RUNTIME_DIR === undefined) delete process.env.XDG_RUNTIME_DIR
    else process.env.XDG_RUNTIME_DIR = XDG_RUNTIME_DIR
    rmSync(folder, { recursive: true })
  })

  for (const options of [[], ['--kill']]) {
    test(`finds what is expected ${options}`, async () => {
      const out = join(folder, 'out')
      const said = await run('examples/pipeline/main.mjs', ...options, '--out', out)
      assert.equal(said.err, '')
      assert.equal(said.out, expected)
      assert.equal(said.code, 0)
      const kills = readFileSync(join(out, 'pipeline.log'), 'utf8').match(/was killed by SIGKILL/g) ?? []
      assert.equal(kills.length, options.length * 14)
    })
  }
})

describe('photos', () => {
  const main = 'examples/photos/main.mjs'
  const tile = 8
  const step = 4
  const sizes = {
    astronaut: [256, 256],
    cat: [256, 170],
    coffee: [256, 171],
    rocket: [256, 171],
    camera: [256, 256],
    coins: [256, 202],
    gravel: [256, 256],
    retina: [256, 256],
    tissue: [256, 256],
    galaxies: [256, 223],
  }
  const results = ['contrast', 'denoised', 'segments', 'edges', 'detail']

  test('writes every picture and a contact sheet, and copies no byte for the hand-off', async t => {
    const out = mkdtempSync(join(tmpdir(), 'isthmus-photos-'))
    t.after(() => rmSync(out, { recursive: true }))
    const said = await run(main, '--size', '256', '--workers', '3', '--tile', `${tile}`, '--out', out)
    assert.equal(said.err, '')
    assert.equal(said.code, 0)

    const names = Object.keys(sizes)
    const expected = names.flatMap(name => results.map(result => `${name}-${result}.png`))
    assert.deepEqual(readdirSync(out).sort(), [...expected, 'contact-sheet.png'].sort())
    for (const [name, [width, height]] of Object.entries(sizes)) {
      assert.match(said.out, new RegExp(`of 10 {2}${name} \\(${width} x ${height}\\)`))
      for (const result of results) await assertPicture(join(out, `${name}-${result}.png`), { width, height })
    }
    await assertPicture(join(out, 'contact-sheet.png'), { width: 1582, height: 3056 })
    assert.match(said.out, /Contact sheet: .*contact-sheet\.png/)

    const figures = name => {
      const found = said.out.match(new RegExp(`^ {2}${name} +([\\d.,]+) +([\\d.,]+)$`, 'm'))
      assert.ok(found, `no line tells ${name}: ${said.out}`)
      return found.slice(1).map(text => Number(text.replaceAll(',', '')))
    }
    const along = length => Math.floor((length - tile) / step) + 1
    const tiles = Object.values(sizes).reduce((sum, [width, height]) => sum + along(width) * along(height), 0)
    assert.deepEqual(figures('calls'), [4 * names.length, tiles])
    assert.deepEqual(figures('bytes copied for the hand-off'), [0, 0])
    const [, perSecond] = figures('calls per second')
    assert.ok(perSecond > 1000, `${perSecond} tiles per second`)
    const [largeBatch, smallBatch] = figures('calls in a batch, on average')
    assert.ok(largeBatch >= 1 && smallBatch > 4, `batches of ${largeBatch} and ${smallBatch} calls`)
    const [, takes] = figures('GIL takes per call')
    assert.ok(takes > 0 && takes < 0.25, `${takes} GIL takes per call with 1000 in flight`)
  })

  test('leaves nothing behind when it is interrupted', async t => {
    const parent = mkdtempSync(join(tmpdir(), 'isthmus-photos-'))
    t.after(() => rmSync(parent, { recursive: true }))
    const out = join(parent, 'out')
    const { child, ended, until } = start(main, '--size', '256', '--out', out)
    await until(/1 of 10/)
    child.kill('SIGINT')
    const { code, err } = await ended
    assert.equal(code, 130)
    assert.equal(err.trim(), 'SIGINT: stopping, and removing what is not complete')
    assert.ok(!existsSync(out))
    const sockets = process.env.XDG_RUNTIME_DIR
      ? join(process.env.XDG_RUNTIME_DIR, 'isthmus')
      : `/tmp/isthmus-${process.getuid()}`
    assert.ok(!existsSync(join(sockets, `photos-${child.pid}.sock`)))
  })

  test('explains its options, and refuses what they do not take', async () => {
    const help = await run(main, '--help')
    assert.equal(help.code, 0)
    for (const option of ['workers', 'in-flight', 'tile', 'size', 'out']) {
      assert.match(help.out, new RegExp(`--${option} `))
    }
    const wrong = await run(main, '--workers', 'many')
    assert.equal(wrong.code, 2)
    assert.equal(wrong.err, "photos: --workers takes a whole number from 1 to 32, not 'many' (see --help)\n")
  })
})
