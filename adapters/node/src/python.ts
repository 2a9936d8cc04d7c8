// Which Python serves an app.

import { existsSync } from 'node:fs'
import { join } from 'node:path'

/** An interpreter, and what led to it. */
export interface Interpreter {
  readonly path: string
  readonly reason: string
}

/** The option, `$ISTHMUS_PYTHON`, `$VIRTUAL_ENV`, `$CONDA_PREFIX`, `./.venv`, `python3`: the first that is given. */
export function findPython(option: string | undefined, env: NodeJS.ProcessEnv, cwd: string): Interpreter {
  if (option) return { path: option, reason: "the option 'python'" }
  if (env.ISTHMUS_PYTHON) return { path: env.ISTHMUS_PYTHON, reason: '$ISTHMUS_PYTHON' }
  for (const name of ['VIRTUAL_ENV', 'CONDA_PREFIX']) {
    const folder = env[name]
    if (folder) return { path: join(folder, 'bin', 'python'), reason: `$${name}` }
  }
  const local = join(cwd, '.venv', 'bin', 'python')
  if (existsSync(local)) return { path: local, reason: './.venv' }
  return { path: 'python3', reason: 'the PATH, as nothing else names one' }
}
