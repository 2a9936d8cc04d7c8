// Medians over the runs, as JSON rows and as a table.

import { cpus } from 'node:os'

export const median = values => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** One row for each case, peer and metric; `measured` has { key, peer, metrics: { metric: [value, unit] } }. */
export function summarize(measured, absent) {
  const rows = new Map()
  for (const { key, peer, metrics } of measured) {
    for (const [metric, [value, unit]] of Object.entries(metrics)) {
      const id = `${key}/${peer}/${metric}`
      if (!rows.has(id)) rows.set(id, { case: key, peer, metric, unit, values: [] })
      rows.get(id).values.push(value)
    }
  }
  const known = [...rows.values()].map(({ case: key, peer, metric, unit, values }) => {
    return { case: key, peer, metric, value: median(values), unit }
  })
  const lost = absent.filter(({ key, peer }) => !known.some(row => row.case === key && row.peer === peer))
  return [
    ...known,
    ...lost.map(({ key, peer, reason }) => ({
      case: key,
      peer,
      metric: 'absent',
      value: null,
      unit: '',
      reason,
    })),
  ]
}

export function machineLine({ version, numpy }) {
  const [{ model }] = cpus()
  return `${model}, ${cpus().length} cores · Node ${process.versions.node} · Python ${version} · numpy ${numpy}`
}

export function table(rows, peers) {
  const lines = [['case', 'metric', ...peers]]
  const metrics = new Map(
    rows.filter(row => row.value !== null).map(row => [`${row.case}/${row.metric}`, row]),
  )
  for (const { case: key, metric, unit } of metrics.values()) {
    const of = peer => rows.find(row => row.case === key && row.metric === metric && row.peer === peer)?.value
    const cells = peers.map(peer => {
      if (of(peer) === undefined)
        return rows.some(row => row.value === null && row.case === key && row.peer === peer) ? 'absent' : '–'
      const isRatio = peer !== 'isthmus' && of('isthmus') > 0 && key !== 'idle'
      return `${figure(of(peer), unit)}${isRatio ? ` ${ratio(of(peer) / of('isthmus'))}` : ''}`
    })
    lines.push([key, metric, ...cells])
  }
  const widths = lines[0].map((_, column) => Math.max(...lines.map(line => line[column].length)))
  return lines
    .map((line, row) => {
      const shown = row > 1 && line[0] === lines[row - 1][0] ? ['', ...line.slice(1)] : line
      return shown
        .map((cell, i) => (i < 2 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))
        .join('  ')
        .trimEnd()
    })
    .join('\n')
}

function figure(value, unit) {
  if (unit === 'us') return value >= 1000 ? `${digits(value / 1000)} ms` : `${digits(value)} µs`
  if (unit === 'ms') return `${digits(value)} ms`
  if (unit === '1/s') return value >= 1e6 ? `${digits(value / 1e6)} M/s` : `${digits(value / 1000)} k/s`
  if (unit === '%') return `${value.toFixed(2)} %`
  if (unit === 'B/call' || unit === 'B/frame') return `${digits(value)} B`
  return value.toFixed(4)
}

const digits = value => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2))

const ratio = value => `${value >= 0.1 ? digits(value) : value.toPrecision(1)}×`.padStart(7)
