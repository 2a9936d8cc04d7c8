// What `./dev soak` takes.

import { optionsOf, usage } from '../options.mjs'

const help = `usage: ./dev soak [--hours N | --seconds N] [--seed N]

Hands arrays over and kills peers, until Ctrl-C if no time is given.`

const values = optionsOf(help, { hours: 'string', seconds: 'string', seed: 'string' })

function number(name) {
  const value = Number(values[name] || NaN)
  if (!(value >= 0)) usage(`--${name} ${values[name]}: no number`)
  return value
}

const hours = values.hours === undefined ? Infinity : number('hours')
export const seconds = values.seconds === undefined ? hours * 3600 : number('seconds')
export const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 32) : number('seed')
