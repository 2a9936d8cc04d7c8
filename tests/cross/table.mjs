// The conversations, written once, for both players and all pairs of them.
//
//   value(name, js, python, back = js)    made in JavaScript. python: an expression that is True of what has come
//                                         to Python, called v; back: what JavaScript has after a journey
//   result(name, make, back)              made in Python. make: an expression; back: what it is in JavaScript
//   lent(name, {js | make}, python, seen) stays where it was made (js: a function that makes it, or make: an
//                                         expression) and is the same object when it comes home; python and seen
//                                         tell whether it can be used from elsewhere

import { isRemote, NDArray } from 'isthmus'

const rows = []
const value = (name, js, python, ...back) =>
  rows.push({ name, js, python, back: back.length > 0 ? back[0] : js })
const result = (name, make, back) => rows.push({ name, make, back })
const lent = (name, { js, make }, python, seen, how = {}) => {
  const row = { name, python, seen, lent: true, ...how }
  rows.push(js ? Object.defineProperty(row, 'js', { get: js, enumerable: true }) : { ...row, make })
}

// --- one value of each kind --------------------------------------------------------------------------------

value('undefined', undefined, 'v is None', null)
value('null', null, 'v is None')
value('true', true, 'v is True')
value('false', false, 'v is False')

const integer = n => `type(v) is int and v == ${n}`
for (const n of [
  0,
  1,
  -1,
  127,
  128,
  -128,
  255,
  65536,
  2 ** 31 - 1,
  2 ** 31,
  -(2 ** 31),
  2 ** 32,
  2 ** 53 - 1,
  1 - 2 ** 53,
]) {
  value(`the number ${n}`, n, integer(n))
}
for (const n of [
  2 ** 53,
  -(2 ** 53),
  2 ** 53 + 2,
  2 ** 63,
  2 ** 64,
  1e300,
  0.1,
  -2.5,
  5e-324,
  1.7976931348623157e308,
]) {
  value(`the number ${n}, no safe integer`, n, `type(v) is float and v == float('${n}')`)
}
value('NaN', Number.NaN, 'type(v) is float and v != v')
value('Infinity', Infinity, "v == float('inf')")
value('-Infinity', -Infinity, "v == float('-inf')")
value('-0', -0, 'type(v) is float and v == 0 and math.copysign(1, v) == -1')

const big = (name, n) => {
  const safe = n >= Number.MIN_SAFE_INTEGER && n <= Number.MAX_SAFE_INTEGER
  value(`the bigint ${name}`, n, integer(`0x${n.toString(16)}`.replace('0x-', '-0x')), safe ? Number(n) : n)
}
for (const [name, n] of Object.entries({
  0: 0n,
  5: 5n,
  '-5': -5n,
  '2**53 - 1': 2n ** 53n - 1n,
  '2**53': 2n ** 53n,
  '2**53 + 1': 2n ** 53n + 1n,
  '-(2**53 - 1)': 1n - 2n ** 53n,
  '-2**53': -(2n ** 53n),
  '-2**53 - 1': -(2n ** 53n) - 1n,
  '2**63 - 1': 2n ** 63n - 1n,
  '2**63': 2n ** 63n,
  '-2**63': -(2n ** 63n),
  '-2**63 - 1': -(2n ** 63n) - 1n,
  '2**64 - 1': 2n ** 64n - 1n,
  '2**64': 2n ** 64n,
  '-2**64': -(2n ** 64n),
  '2**127': 2n ** 127n,
  '-2**127': -(2n ** 127n),
  '-2**127 - 1': -(2n ** 127n) - 1n,
  'of 10,000 bits': 2n ** 10_000n - 12_345n,
  'of 10,000 bits, negative': 12_345n - 2n ** 10_000n,
})) {
  big(name, n)
}

const text = (name, s, python) => value(`the string ${name}`, s, `type(v) is str and ${python}`)
text('of no length', '', "v == ''")
text('in ASCII', 'plain', "v == 'plain'")
text('in Latin-1', 'Grüße, señor ÿ', String.raw`v == 'Gr\xfc\xdfe, se\xf1or \xff'`)
text('in the basic plane', '漢字かな Ω', String.raw`v == '\u6f22\u5b57\u304b\u306a \u03a9'`)
text('beyond the basic plane', 'a😀𝒳', String.raw`len(v) == 3 and v == 'a\U0001f600\U0001d4b3'`)
text('with NUL', 'a\0b\0', String.raw`v == 'a\0b\0'`)
text('with all of Latin-1', String.fromCharCode(...Array(256).keys()), 'v == "".join(map(chr, range(256)))')
text('of a lone high surrogate', '\ud800', String.raw`v == '\ud800'`)
text('of a lone low surrogate', 'x\udfffy', String.raw`v == 'x\udfffy'`)
text('of surrogates in the wrong order', '\udc00\ud800', String.raw`v == '\udc00\ud800'`)
text('of a pair between lone surrogates', '\ud83d😀\ude00', String.raw`v == '\ud83d\U0001f600\ude00'`)
for (const [name, c] of Object.entries({
  ASCII: 'x',
  'Latin-1': 'é',
  'the basic plane': '漢',
  'the planes beyond': '😀',
})) {
  for (const n of [31, 32, 255, 8000, 8192, 2 ** 18 + 1]) {
    text(`of ${n} characters of ${name}`, c.repeat(n), `v == '${c}' * ${n}`)
  }
}
value(
  'a long string with one wide character at its end',
  `${'x'.repeat(100_000)}漢`,
  'len(v) == 100_001 and v[-1] == "漢"',
)

// --- containers --------------------------------------------------------------------------------------------

value('an empty Array', [], 'type(v) is list and v == []')
value('an Array', [1, 'two', null, [3.5]], "v == [1, 'two', None, [3.5]]")
// biome-ignore lint/suspicious/noSparseArray: a hole is what is tested
value('an Array with a hole', [1, , 3], 'v == [1, None, 3]', [1, null, 3])
value(
  'an Array of 10,000',
  Array.from({ length: 10_000 }, (_, i) => i),
  'v == list(range(10_000))',
)
value('40,000 strings', Array(40_000).fill('a text'), "v == ['a text'] * 40_000")
value('10,000 bigints', Array(10_000).fill(2n ** 70n), 'v == [2**70] * 10_000')
value('10,000 small arrays', Array(10_000).fill(Int8Array.of(1, 2)), 'all(x.tolist() == [1, 2] for x in v)')
value('an empty object', {}, 'type(v) is dict and v == {}')
value('an object', { a: 1, 'b c': [2], ü: { n: null } }, "v == {'a': 1, 'b c': [2], 'ü': {'n': None}}")
value('an object in its order', { z: 1, a: 2, m: 3 }, "list(v) == ['z', 'a', 'm']")
value('an object with an undefined member', { a: undefined }, "v == {'a': None}", { a: null })
value('an object without a prototype', Object.assign(Object.create(null), { a: 1 }), "v == {'a': 1}")
value('an object with number-like keys', { 2: 'b', 1: 'a' }, "v == {'1': 'a', '2': 'b'}")
value(
  'an object with __proto__ as a key',
  JSON.parse('{"__proto__": {"polluted": true}, "constructor": 1}'),
  "v == {'__proto__': {'polluted': True}, 'constructor': 1}",
)
value(
  'an object with 1,000 members',
  Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`k${i}`, i])),
  'len(v) == 1000 and v["k999"] == 999',
)
value('an empty Map', new Map(), 'type(v) is dict and v == {}', {})
value(
  'a Map of strings',
  new Map([
    ['a', 1],
    ['__proto__', 2],
  ]),
  "v == {'a': 1, '__proto__': 2}",
  JSON.parse('{"a": 1, "__proto__": 2}'),
)
value(
  'a Map with mixed keys',
  new Map([
    [1, 'a'],
    ['b', 2],
    [null, [3]],
    [2.5, new Map([[4, 5]])],
    [2n ** 70n, 6],
    [false, 7],
  ]),
  "v == {1: 'a', 'b': 2, None: [3], 2.5: {4: 5}, 2**70: 6, False: 7} and [type(k) for k in v] == [int, str, type(None), float, int, bool]",
)
value('a Map with a Date as key', new Map([[new Date(0), 1]]), 'v == {EPOCH: 1}')
value(
  'a Map with an Array and a Set as keys',
  new Map([
    [[1, [2]], 'a'],
    [new Set([3]), 'b'],
  ]),
  "v == {(1, (2,)): 'a', frozenset({3}): 'b'}",
)
value('an empty Set', new Set(), 'type(v) is set and v == set()')
value('a Set', new Set([1, 'a', null, 2.5, 2n ** 64n]), "v == {1, 'a', None, 2.5, 2**64}")
value('a Set of Arrays and Sets', new Set([[1, [2]], new Set([3])]), 'v == {(1, (2,)), frozenset({3})}')
value('a Set of 1,000', new Set(Array(1000).keys()), 'v == set(range(1000))')

const nested = (depth, wrap, core = 'core') => {
  let all = core
  for (let i = 0; i < depth; i++) all = wrap(all)
  return all
}
value(
  'Arrays nested 50 deep',
  nested(50, v => [v]),
  'depth(v) == 50',
)
value(
  'objects nested 50 deep',
  nested(50, v => ({ v })),
  'depth(v) == 50',
)
value(
  'Maps nested 50 deep',
  nested(50, v => new Map([[1, v]])),
  'depth(v) == 50',
)
value(
  'kinds nested 50 deep by turns',
  nested(50, v => (Array.isArray(v) ? { v } : [v])),
  'depth(v) == 50',
)
value(
  'Arrays nested 120 deep',
  nested(120, v => [v]),
  'depth(v) == 120',
)
rows.at(-1).deepest = true
const shared = { n: 1 }
value('one object in two places', [shared, shared], "v == [{'n': 1}, {'n': 1}]")
const table = Array.from({ length: 200 }, (_, i) => ({
  i,
  name: `row ${i}`,
  x: i / 3,
  tags: ['a', 'b'],
  sub: { at: new Date(i) },
}))
value(
  'rows of a table',
  table,
  'len(v) == 200 and v[199]["sub"]["at"].microsecond == 199_000 and v[3]["x"] == 1.0',
  table,
)

// --- dates -------------------------------------------------------------------------------------------------

for (const [iso, python] of [
  ['1970-01-01T00:00:00.000Z', 'EPOCH'],
  ['2026-02-28T23:59:59.999Z', 'utc(2026, 2, 28, 23, 59, 59, 999_000)'],
  ['1969-12-31T23:59:59.999Z', 'utc(1969, 12, 31, 23, 59, 59, 999_000)'],
  ['1912-06-23T01:02:03.004Z', 'utc(1912, 6, 23, 1, 2, 3, 4_000)'],
  ['0001-01-01T00:00:00.000Z', 'utc(1, 1, 1)'],
  ['9999-12-31T23:59:59.999Z', 'utc(9999, 12, 31, 23, 59, 59, 999_000)'],
]) {
  value(
    `the Date ${iso}`,
    new Date(iso),
    `type(v) is datetime and v == ${python} and v.tzinfo is timezone.utc`,
  )
}
result(
  'a datetime of another zone',
  'datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))',
  new Date('2026-01-01T00:00:00Z'),
)

// --- bytes and arrays --------------------------------------------------------------------------------------

const bytes = Uint8Array.from({ length: 256 }, (_, i) => i)
// again: what Python has after a journey through JavaScript, where bytes are a Uint8Array
const octets = (name, js, python, back) =>
  rows.push({
    name,
    js,
    python: `type(v) is memoryview and v.format == 'B' and v.ndim == 1 and bytes(v) == ${python}`,
    again: `bytes(v) == ${python}`,
    back,
  })
octets('a Buffer', Buffer.from(bytes), 'bytes(range(256))', bytes)
octets('an empty Buffer', Buffer.alloc(0), "b''", new Uint8Array(0))
octets('an ArrayBuffer', bytes.buffer, 'bytes(range(256))', bytes)
octets('a DataView at an offset', new DataView(bytes.buffer, 3, 5), 'bytes(range(3, 8))', bytes.slice(3, 8))
const sharedBytes = new SharedArrayBuffer(100)
new Uint8Array(sharedBytes).fill(7)
octets('a SharedArrayBuffer', sharedBytes, 'bytes([7]) * 100', new Uint8Array(100).fill(7))
octets(
  'a Buffer of 100,000 bytes',
  Buffer.alloc(100_000, 'ab'),
  "b'ab' * 50_000",
  Uint8Array.from(Buffer.alloc(100_000, 'ab')),
)

const kinds = [
  [Int8Array, 'int8'],
  [Uint8Array, 'uint8'],
  [Uint8ClampedArray, 'uint8'],
  [Int16Array, 'int16'],
  [Uint16Array, 'uint16'],
  [Int32Array, 'int32'],
  [Uint32Array, 'uint32'],
  [Float32Array, 'float32'],
  [Float64Array, 'float64'],
  [BigInt64Array, 'int64'],
  [BigUint64Array, 'uint64'],
]
// Where every JavaScript that plays has it.
if (process.env.ISTHMUS_TABLE_FLOAT16) kinds.push([globalThis.Float16Array, 'float16'])
const count = (Kind, length) => {
  const one = Kind === BigInt64Array || Kind === BigUint64Array ? BigInt : Number
  return Kind.from({ length }, (_, i) => one(i % 101))
}
const counted = (dtype, length) =>
  `type(v) is np.ndarray and v.dtype == '${dtype}' and v.shape == (${length},) and (v == remainders(${length})).all()`
const array = (name, js, dtype, length, back) => {
  value(name, js, `${counted(dtype, length)} and not (v.size and v.flags.writeable)`, back)
  rows.at(-1).again = counted(dtype, length)
}
for (const [Kind, dtype] of kinds) {
  const Back = Kind === Uint8ClampedArray ? Uint8Array : Kind
  const item = Kind.BYTES_PER_ELEMENT
  // around what travels in the frame (2 KiB), the largest frame in a ring (8 KiB), and a chunk (256 KiB)
  for (const size of [0, 8, 2048 - 8, 2048, 2048 + 8, 8192 - 8, 8192, 8192 + 8, 2 ** 18, 2 ** 18 + 8]) {
    const length = size / item
    const x = count(Kind, length)
    array(`a ${Kind.name} of ${size} bytes`, x, dtype, length, Back.from(x))
  }
  const odd = count(Kind, 1000).subarray(7, 7 + 33)
  value(
    `a subarray of a ${Kind.name}`,
    odd,
    `v.dtype == '${dtype}' and (v == np.arange(7, 40)).all()`,
    Back.from(odd),
  )
  const overShared = new Kind(new SharedArrayBuffer(item * 50), item * 3, 40)
  overShared.set(count(Kind, 40))
  array(`a ${Kind.name} over a SharedArrayBuffer`, overShared, dtype, 40, Back.from(overShared))
}
value(
  'a Float64Array of what is no number',
  Float64Array.of(Number.NaN, Infinity, -Infinity, -0),
  'np.array_equal(v, [np.nan, np.inf, -np.inf, -0.0], equal_nan=True) and np.signbit(v[3])',
)
value(
  'the extremes of a BigInt64Array',
  BigInt64Array.of(2n ** 63n - 1n, -(2n ** 63n)),
  'v.tolist() == [2**63 - 1, -2**63]',
)
value('the extreme of a BigUint64Array', BigUint64Array.of(2n ** 64n - 1n), 'v.tolist() == [2**64 - 1]')
value(
  'arrays in an object',
  { a: Float32Array.of(1.5), b: [new Uint8Array(5000)] },
  "v['a'].dtype == 'float32' and v['b'][0].nbytes == 5000",
)
value(
  'an array in a thousand places',
  Array.from({ length: 1000 }, (_, i) => Int16Array.of(i)),
  'all(x.tolist() == [i] for i, x in enumerate(v))',
)

const nd = (...parts) => new NDArray(...parts)
const is = (dtype, shape) =>
  `type(v) is np.ndarray and v.dtype == '${dtype}' and v.shape == ${shape} and v.flags.c_contiguous`
value(
  'an NDArray of two dimensions',
  nd(count(Float64Array, 6), [2, 3]),
  `${is('float64', '(2, 3)')} and v[1, 2] == 5`,
)
value(
  'an NDArray of four dimensions',
  nd(count(Int32Array, 24), [2, 3, 4, 1]),
  `${is('int32', '(2, 3, 4, 1)')} and v[1, 2, 3, 0] == 23`,
)
value(
  'an NDArray of no dimension',
  nd(Float64Array.of(2.5), []),
  `${is('float64', '()')} and v.item() == 2.5`,
)
value('an NDArray of one dimension', nd(count(Uint8Array, 5), [5]), is('uint8', '(5,)'), count(Uint8Array, 5))
value('an NDArray with a dimension of 0', nd(new Float32Array(0), [3, 0, 2]), is('float32', '(3, 0, 2)'))
value(
  'an NDArray of a photograph',
  nd(count(Uint8Array, 480 * 640 * 3), [480, 640, 3]),
  `${is('uint8', '(480, 640, 3)')} and v[-1, -1, -1] == (480 * 640 * 3 - 1) % 101`,
)
value(
  'an NDArray over a subarray',
  nd(count(Int16Array, 100).subarray(3, 9), [3, 2]),
  `${is('int16', '(3, 2)')} and v[0, 0] == 3 and v[2, 1] == 8`,
  nd(Int16Array.of(3, 4, 5, 6, 7, 8), [3, 2]),
)

value(
  'an NDArray in the order of Fortran',
  nd(count(Float64Array, 6), [2, 3], 'float64', 'F'),
  'v.shape == (2, 3) and v.flags.f_contiguous and v.tolist() == [[0, 2, 4], [1, 3, 5]]',
)
value(
  'an NDArray of bool',
  nd(Uint8Array.of(1, 0, 1), [3], 'bool'),
  "v.dtype == 'bool' and v.tolist() == [True, False, True]",
)
value(
  'an NDArray of complex64',
  nd(Float32Array.of(1, 2, 3, -4), [2], 'complex64'),
  "v.dtype == 'complex64' and v.tolist() == [1 + 2j, 3 - 4j]",
)
value(
  'an NDArray of complex128',
  nd(Float64Array.of(1, 2), [1, 1], 'complex128'),
  "v.dtype == 'complex128' and v.tolist() == [[1 + 2j]]",
)

// --- what only Python has ----------------------------------------------------------------------------------

result('the int 2**53', '2**53', 2n ** 53n)
result('the int -2**53', '-2**53', -(2n ** 53n))
result('the float 3.0', '3.0', 3)
result('a subclass of int', 'type("Meters", (int,), {})(7)', 7)
result('a subclass of str', 'type("Name", (str,), {})("x")', 'x')
result('a subclass of dict', 'OrderedDict(b=1, a=2)', { b: 1, a: 2 })
result('a subclass of list', 'type("Row", (list,), {})([1, 2])', [1, 2])
result('a tuple', '(1, (2, ()))', [1, [2, []]])
result(
  'a dict with int keys',
  '{1: "a", 2: "b"}',
  new Map([
    [1, 'a'],
    [2, 'b'],
  ]),
)
result('a dict with tuples as keys', '{(1, 2): 3}', new Map([[[1, 2], 3]]))
result('a frozenset', 'frozenset({1, 2})', new Set([1, 2]))
result('a set of frozensets', '{frozenset({1}), frozenset()}', new Set([new Set([1]), new Set()]))
result('complex', '1.5 - 2j', { re: 1.5, im: -2 })
result('an Enum', 'Color.RED', 'red')
result('an IntEnum', 'Level.HIGH', 3)
result('an Enum of tuples', 'Pair.A', [1, 2])
result('a dataclass', 'Point(1, [2.5])', { x: 1, y: [2.5] })
result('a dataclass in a dataclass', 'Point(Point(1, 2), "z")', { x: { x: 1, y: 2 }, y: 'z' })
result('a dataclass with slots', 'Slim(1)', { x: 1 })
result('a NamedTuple', 'Range(1, 9)', { low: 1, high: 9 })
result('a Decimal', 'Decimal("12.340")', '12.340')
result('a UUID', 'UUID(int=1)', '00000000-0000-0000-0000-000000000001')
result('a Path', 'Path("/a") / "b"', '/a/b')
result('a date', 'date(2026, 3, 9)', '2026-03-09')
result('a time', 'time(1, 2, 3)', '01:02:03')
result('a timedelta', 'timedelta(days=1, milliseconds=500)', 86_400.5)
result('bytes', 'b"a\\0\\xff"', Uint8Array.of(97, 0, 255))
result('a bytearray', 'bytearray(b"abc")', Uint8Array.of(97, 98, 99))
result('a memoryview', 'memoryview(b"abcdef")[1:4]', Uint8Array.of(98, 99, 100))
result('a memoryview with steps', 'memoryview(b"abcdef")[::2]', Uint8Array.of(97, 99, 101))
result('100,000 bytes', 'b"x" * 100_000', new Uint8Array(100_000).fill(120))
result('a numpy float64', 'np.float64(2.5)', 2.5)
result('a numpy float32', 'np.float32(0.5)', 0.5)
result('a numpy int8', 'np.int8(-3)', -3)
result('a numpy uint64', 'np.uint64(2**64 - 1)', 2n ** 64n - 1n)
result('a numpy bool', 'np.bool_(True)', true)
result('a numpy str', 'np.str_("s")', 's')
result('a numpy complex', 'np.complex64(1 + 2j)', { re: 1, im: 2 })
for (const [Kind, dtype] of kinds) {
  if (Kind === Uint8ClampedArray) continue
  result(`a numpy array of ${dtype}`, `np.arange(5).astype('${dtype}')`, count(Kind, 5))
  result(
    `a large numpy array of ${dtype}`,
    `(np.arange(70_000) % 101).astype('${dtype}')`,
    count(Kind, 70_000),
  )
}
result(
  'a numpy array with steps',
  'np.arange(100.0)[::7]',
  Float64Array.from({ length: 15 }, (_, i) => i * 7),
)
result('a numpy array backwards', 'np.arange(5.0)[::-1]', Float64Array.of(4, 3, 2, 1, 0))
result('a big-endian numpy array', "np.arange(3, dtype='>i4')", Int32Array.of(0, 1, 2))
result('a numpy array of no dimension', 'np.array(2.5)', nd(Float64Array.of(2.5), []))
result(
  'a Fortran array',
  'np.asfortranarray(np.arange(6.0).reshape(2, 3))',
  nd(Float64Array.of(0, 1, 2, 3, 4, 5), [2, 3]),
)
result(
  'a large Fortran array',
  'np.asfortranarray(np.arange(20_000).reshape(100, 200))',
  nd(
    BigInt64Array.from({ length: 20_000 }, (_, i) => BigInt(i)),
    [100, 200],
  ),
)
result(
  'a transposed array',
  'np.arange(6, dtype="i4").reshape(2, 3).T',
  nd(Int32Array.of(0, 3, 1, 4, 2, 5), [3, 2]),
)
result(
  'an array in bus memory',
  'filled(isthmus.empty((3, 1000), "float32"), 1.5)',
  nd(new Float32Array(3000).fill(1.5), [3, 1000]),
)
result(
  'a slice of an array in bus memory',
  'filled(isthmus.empty(100_000, "uint16"), 9)[5:5005]',
  new Uint16Array(5000).fill(9),
)
result(
  'a large array, computed',
  'np.add(np.arange(500_000.0), 1)',
  Float64Array.from({ length: 500_000 }, (_, i) => i + 1),
)
result('arrays in a dict', '{"a": np.zeros(3), "b": [np.ones((2, 2), "f4")]}', {
  a: new Float64Array(3),
  b: [nd(Float32Array.of(1, 1, 1, 1), [2, 2])],
})
result('a str of surrogates that make a pair', String.raw`'\ud83d' + '\ude00'`, '😀')
result('None in a list', '[None]', [null])
result(
  'bool in an int key',
  '{True: 1, 5: 2}',
  new Map([
    [true, 1],
    [5, 2],
  ]),
)

// --- what is lent ------------------------------------------------------------------------------------------

const plusOne = x => x + 1
const addsOne = async v => typeof v === 'function' && (await v(20)) === 21
lent('a function', { js: () => plusOne }, 'callable(v) and v(20) == 21', addsOne)
lent('a closure', { js: () => (a, b) => [b, a] }, "v('a', {'b': 2}) == [{'b': 2}, 'a']", async v => {
  const [b, a] = await v('a', 'b')
  return a === 'a' && b === 'b'
})
lent('a Python function', { make: 'plus_one' }, 'callable(v) and v(20) == 21', addsOne)
lent('a lambda', { make: 'lambda x: x + 1' }, 'callable(v) and v(20) == 21', addsOne)
lent('a bound method', { make: 'Box(19).plus' }, 'v(2) == 21', async v => (await v(2)) === 21)
lent('an object of a class', { make: 'Box(5)' }, 'v.value == 5 and v.plus(1) == 6', async v => {
  return isRemote(v) && typeof v === 'object' && (await v.value) === 5 && (await v.plus(1)) === 6
})
lent('a class', { make: 'Box' }, 'v(3).plus(4) == 7', async v => (await v(3).plus(4)) === 7)
lent('a module', { make: 'math' }, 'v.factorial(5) == 120', async v => (await v.factorial(5)) === 120)

// An isolate that blocks can't run the promises of its own streams
const stream = { blocks: false }
const items = async v => {
  const all = []
  for await (const item of v) all.push(item)
  return all.join() === '0,1,2'
}
const sequence = 'items(v) == [0, 1, 2]'
const web = () =>
  new ReadableStream({
    start(controller) {
      for (const i of [0, 1, 2]) controller.enqueue(i)
      controller.close()
    },
  })
async function* asyncGenerator() {
  for (let i = 0; i < 3; i++) yield i
}
function* generator() {
  yield* [0, 1, 2]
}
lent('an async generator', { js: asyncGenerator }, sequence, items, stream)
lent('a generator', { js: generator }, sequence, items, stream)
lent('a Web Stream', { js: web }, sequence, items, stream)
lent('a Python generator', { make: '(i for i in range(3))' }, sequence, items, stream)
lent('a Python iterator', { make: 'iter([0, 1, 2])' }, sequence, items, stream)
lent('a Python async generator', { make: 'counting(3)' }, sequence, items, stream)

/** What the Python player needs to know of the rows. */
export const asData = () =>
  rows.map(({ name, python, again, make, lent = false, deepest = false }) => ({
    name,
    python,
    again,
    make,
    lent,
    deepest,
  }))

export default rows
