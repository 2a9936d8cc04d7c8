// Installs the peers for the benchmark only: each one's npm packages in a folder of its own, one venv
// for all. What succeeded is stamped and not done again; what failed is tried again next time.

import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** What the Python of ./dev build is: { python, version, numpy }. */
export async function describe(python) {
  const version = await output(python, ['-c', 'import platform; print(platform.python_version())'])
  const numpy = await output(python, ['-c', 'import numpy; print(numpy.__version__)'])
  return { python, version, numpy }
}

/** The peers' venv, of the same Python with the same numpy: { python, version, numpy, sitePackages }. */
export async function prepareVenv(base, home, tell) {
  const venv = join(home, 'venv')
  const python = join(venv, 'bin', 'python')
  await stamped(home, 'venv', [base], async log => {
    tell('making build/bench/venv')
    // The peers' stamps go too: what they had in the venv is gone.
    rmSync(home, { recursive: true, force: true })
    mkdirSync(home, { recursive: true })
    await run(base.python, ['-m', 'venv', venv], {}, log)
    await pip(python, [`numpy==${base.numpy}`], log)
  })
  const sitePackages = await output(python, ['-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'])
  return { ...base, python, sitePackages }
}

/** Installs what an adapter declares as { npm, overrides, build, pip, embeds }. Resolves to its folder. */
export async function preparePeer(name, install, venv, home, tell) {
  const dir = join(home, name)
  if (install.embeds) await checkLibpython(venv.version)
  await stamped(home, name, [install, venv.version, venv.numpy, process.version], async log => {
    rmSync(dir, { recursive: true, force: true })
    mkdirSync(dir, { recursive: true })
    const manifest = { private: true, dependencies: install.npm ?? {}, overrides: install.overrides ?? {} }
    writeFileSync(join(dir, 'package.json'), JSON.stringify(manifest))
    const options = { cwd: dir, env: { ...process.env, ...nodeHeaders() } }
    if (install.npm) {
      tell(`installing ${name}`)
      await run(
        'npm',
        [
          'install',
          '--ignore-scripts',
          '--no-audit',
          '--no-fund',
          '--fetch-retries=1',
          '--fetch-timeout=30000',
        ],
        options,
        log,
      )
    }
    for (const what of install.build ?? []) {
      tell(`building ${what}`)
      await run('npm', ['rebuild', what, '--build-from-source', '--foreground-scripts'], options, log)
    }
    if (install.pip) {
      tell(`installing ${install.pip}`)
      await pip(venv.python, install.pip, log)
    }
  })
  return dir
}

async function stamped(home, name, inputs, make) {
  const stamp = join(home, `${name}.stamp`)
  const wanted = createHash('sha256').update(JSON.stringify(inputs)).digest('hex')
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return
  const log = join(home, `${name}.log`)
  for (const old of [stamp, log]) rmSync(old, { force: true })
  mkdirSync(home, { recursive: true })
  await make(log)
  writeFileSync(stamp, wanted)
}

async function checkLibpython(version) {
  const minor = version.split('.').slice(0, 2).join('.')
  const found = await output('pkg-config', ['--modversion', 'python3-embed']).catch(() => 'none')
  if (found !== minor)
    throw new Error(`needs libpython ${minor} to embed; pkg-config python3-embed finds ${found}`)
}

// node-gyp downloads the headers unless it is told where they are.
function nodeHeaders() {
  const prefix = dirname(dirname(process.execPath))
  return existsSync(join(prefix, 'include/node/common.gypi')) ? { npm_config_nodedir: prefix } : {}
}

const pip = (python, packages, log) =>
  run(
    python,
    ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--retries=1', ...packages],
    {},
    log,
  )

const children = new Set()

export function killInstallers() {
  for (const child of children) {
    try {
      process.kill(-child.pid, 'SIGKILL')
    } catch (error) {
      if (error.code !== 'ESRCH') throw error
    }
  }
}

function run(command, args, options, log) {
  const file = openSync(log, 'a')
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { ...options, detached: true, stdio: ['ignore', file, file] })
    children.add(child)
    const fail = why => {
      children.delete(child)
      reject(new Error(`${[command, ...args].slice(0, 3).join(' ')} ${why}`))
    }
    child.on('error', error => fail(`did not start: ${error.message}`))
    child.on('close', code => {
      if (code !== 0) return fail(`failed: ${firstError(readFileSync(log, 'utf8'))} (all of it is in ${log})`)
      children.delete(child)
      resolve()
    })
  })
}

function output(command, args) {
  return new Promise((resolve, reject) => {
    let text = ''
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'ignore'] })
    child.stdout.on('data', chunk => {
      text += chunk
    })
    child.on('error', reject)
    child.on('close', code =>
      code === 0 ? resolve(text.trim()) : reject(new Error(`${command} ended with ${code}`)),
    )
  })
}

function firstError(text) {
  const lines = text.trim().split('\n')
  const like = pattern => lines.find(line => pattern.test(line))
  return (like(/\berror: /) ?? like(/error\b/i) ?? lines.at(-1)).trim()
}
