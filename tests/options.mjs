// The options of a program that ./dev starts.

import { parseArgs } from 'node:util'

export function usage(message) {
  console.error(`${message}; see --help`)
  process.exit(2)
}

/** Their values, by their names. `types` are 'string' or 'boolean'. With --help, or what it does not take, the program ends. */
export function optionsOf(help, types) {
  const flags = Object.entries({ ...types, help: 'boolean' }).map(([name, type]) => [name, { type }])
  try {
    const { values } = parseArgs({ options: Object.fromEntries(flags) })
    if (!values.help) return values
  } catch (error) {
    usage(error.message)
  }
  console.log(help)
  process.exit()
}
