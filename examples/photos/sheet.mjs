// The contact sheet: a row for each photograph, the original and what became of it side by side.

import sharp from 'sharp'

const cell = 240
const gap = 14
const margin = 36
const titleHeight = 92
const captionHeight = 46

function thumbnail(file) {
  return sharp(file).resize(cell, cell, { fit: 'cover' }).removeAlpha().toColourspace('srgb').png().toBuffer()
}

/** columns: { title, subtitle }; rows: { title, subtitle, files }; label(text, size, ink): { data, shape } */
export async function writeContactSheet(file, { title, subtitle, columns, rows, label }) {
  const width = 2 * margin + columns.length * (cell + gap) - gap
  const rowHeight = cell + captionHeight
  const height = margin + titleHeight + captionHeight + rows.length * rowHeight + margin - gap
  const pieces = []
  const write = async (text, size, ink, left, top) => {
    const { data, shape } = await label(text, size, ink)
    pieces.push({ input: data, raw: { width: shape[1], height: shape[0], channels: 1 }, left, top })
  }

  await write(title, 34, 20, margin, margin - 10)
  await write(subtitle, 17, 110, margin, margin + 42)
  const columnLeft = i => margin + i * (cell + gap)
  for (const [i, column] of columns.entries()) {
    await write(column.title, 18, 20, columnLeft(i), margin + titleHeight - 8)
    await write(column.subtitle, 12, 110, columnLeft(i), margin + titleHeight + 16)
  }
  for (const [j, row] of rows.entries()) {
    const top = margin + titleHeight + captionHeight + j * rowHeight
    for (const [i, picture] of row.files.entries()) {
      pieces.push({ input: await thumbnail(picture), left: columnLeft(i), top })
    }
    await write(row.title, 15, 20, margin, top + cell + 2)
    await write(row.subtitle, 12, 110, columnLeft(1), top + cell + 4)
  }
  await sharp({ create: { width, height, channels: 3, background: '#ffffff' } })
    .composite(pieces)
    .png()
    .toFile(file)
}
