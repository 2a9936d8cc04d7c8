// Tables of apache-arrow in the types.

import { Table } from 'apache-arrow'
import { type ArrowTable, type Bus, release, toTable } from 'isthmus'

export async function tables(py: Bus): Promise<void> {
  const own = new Table()
  const seen: ArrowTable = own
  await py.call('fit', [own, seen])
  const df = await py.import('pandas').read_csv('sales.csv')
  const table = await toTable<Table>(df.query('x > 1'))
  const rows: number = table.numRows
  const released: boolean = release(table) && py.release(table)
  const kept = await py.call('load', [rows], { keep: true })
  console.log(released, kept)
}
