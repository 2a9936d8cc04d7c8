// Python's libraries, driven from JavaScript: what has no value form stays in Python, and a chain of accesses is one message.

import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { keep, kwargs, slice, spawn, tuple, withContext } from 'isthmus'

const py = await spawn(`${import.meta.dirname}/app.py`)
const title = text => console.log(`\n# ${text}`)

title('numpy: reshape and sum')
const np = await py.import('numpy')
console.log(await np.arange(15).reshape(3, 5).sum())
const a = await keep(np.arange(15).reshape(3, 5)) // stays in Python, to be used again
console.log(`${a}`)
console.log(await a.shape, await a.ndim, await a.dtype.name, await a.size)
console.log(await a.sum(kwargs({ axis: 0 })))
console.log(await np.ones(tuple(2, 3), kwargs({ dtype: np.int16 }))) // a chain is an argument

title('slices and items')
console.log(await a.__getitem__(tuple(slice(0, 2), slice(null, null, 2))).tolist())
console.log(await a[-1][0], await a[1].tolist())

title('pandas: a filter, with named arguments')
const pd = await py.import('pandas')
const df = await pd.DataFrame({
  city: ['Ghent', 'Porto', 'Turin', 'Uppsala'],
  area: [156, 41, 130, 48],
  coast: [false, true, false, false],
})
console.log(`${df}`)
const large = df.__getitem__(df.area.gt(45)).sort_values(kwargs({ by: 'area', ascending: false }))
console.log(await large.to_dict(kwargs({ orient: 'records' })))
console.log(await df.query('not coast').area.mean().round(2))

title('a class with methods')
const account = await py.call('open_account', ['Ada'], { kwargs: { balance: 10 } })
console.log(await account.deposit(5), await account.balance, `${account}`)
await account.__setattr__('owner', 'Grace')
console.log(`${account}`, await account.__eq__(await py.call('open_account', ['Grace', 15])))

title('iteration')
const itertools = await py.import('itertools')
for await (const pair of itertools.combinations('abc', 2)) console.log(pair)
let squares = 0
for await (const n of itertools.count(1)) {
  squares += n * n
  if (squares > 100) break // Python's iterator is closed, too
}
console.log(squares)

title('a context manager, and matplotlib')
const folder = await mkdtemp(join(tmpdir(), 'isthmus-remote-'))
const io = await py.import('io')
await withContext(io.open(join(folder, 'notes.txt'), 'w'), file =>
  file.write('closed when the function ends'),
)
console.log(await readFile(join(folder, 'notes.txt'), 'utf8'))

await py.import('logging').getLogger('matplotlib').setLevel('ERROR') // it looks for fonts at first, and says so
await py.import('matplotlib').use('Agg')
const plt = await py.import('matplotlib.pyplot')
const [figure, axes] = await plt.subplots(kwargs({ figsize: [4, 3] }))
const x = await keep(np.linspace(0, 2 * Math.PI, 100))
await axes.plot(x, np.sin(x), kwargs({ label: 'sin' }))
await axes.legend()
await figure.savefig(join(folder, 'sine.png'), kwargs({ dpi: 100 }))
await plt.close(figure)
const png = await readFile(join(folder, 'sine.png'))
console.log(png.toString('latin1', 1, 4), png.readUInt32BE(16), 'x', png.readUInt32BE(20))
await rm(folder, { recursive: true })

title('big integers')
const math = await py.import('math')
console.log(await math.factorial(30), await math.gcd(2n ** 100n, 6n ** 50n))

title('errors')
try {
  await np.arange(15).reshape(4, 4)
} catch (error) {
  console.log(error.type, error.message)
}

await py.close()
