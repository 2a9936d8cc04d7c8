import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { inspect, promisify } from 'node:util'
import {
  connect,
  EncodeError,
  enter,
  HostLostError,
  isRemote,
  keep,
  kwargs,
  PythonError,
  slice,
  spawn,
  TimeoutError,
  tuple,
  withContext,
} from 'isthmus'
import { app, py } from './objects.mjs'
import { collectGarbage, delay, root, until } from './support.mjs'

/** How many calls something takes. */
async function calls(work) {
  const before = (await py.stats()).self.calls
  await work()
  return (await py.stats()).self.calls - before
}

/** What earlier tests have dropped is gone. */
const nothingLives = () =>
  until('nothing lives', async () => {
    await collectGarbage()
    return (await py.call('living')) === 0
  })

test('what has no value form is a remote object, which is no promise', async () => {
  const box = await py.call('box', [3])
  assert.ok(isRemote(box))
  assert.equal(await box, box)
  assert.equal(typeof box, 'object')
  assert.equal(typeof (await py.call('adder', [1])), 'function')
  assert.ok(!isRemote(box.value) && !isRemote({}) && !isRemote(null) && !isRemote('text'))
  const { box: inner, list } = await py.call('nested')
  assert.deepEqual([await inner.value, await list[0].value], [3, 4])
})

test('attributes, items and calls are asked for when they are awaited', async () => {
  const box = await py.call('box', [3])
  assert.equal(await box.value, 3)
  assert.equal(await box.get(), 3)
  assert.equal(await box.add(2, kwargs({ times: 3 })).value, 9)
  assert.deepEqual(await box[0], ['int', '0'])
  assert.deepEqual(await box[-1], ['int', '-1'])
  assert.deepEqual(await box.__getitem__('name'), ['str', "'name'"])
  assert.equal(await (await py.call('adder', [1]))(2), 3)
})

test('a chain of accesses is one message, and its answer another', async () => {
  const box = await py.call('box', [0])
  await box.get()
  const before = await py.stats()
  assert.equal(await box.add(1).add(2).seen.add(3).get(), 6)
  const after = await py.stats()
  for (const [peer, sent, received] of [
    ['self', 1, 1],
    ['host', 1, 1],
  ]) {
    assert.equal(after[peer].frames_sent - before[peer].frames_sent, sent)
    assert.equal(after[peer].frames_received - before[peer].frames_received, received)
  }
  assert.equal(await calls(() => py.import('math').factorial(5)), 1)
})

test('modules are imported, and what they lead to', async () => {
  const math = await py.import('math')
  assert.ok(isRemote(math))
  assert.equal(await math.pi, Math.PI)
  assert.equal(await math.factorial(25), 15511210043330985984000000n)
  await assert.rejects(async () => py.import('no_such_module'), { type: 'ModuleNotFoundError' })
})

test('a host lets only those modules be imported that it allows', async () => {
  const other = await spawn(app, { allow: ['math', 'os.path'] })
  try {
    assert.equal(await other.import('math').floor(1.5), 1)
    assert.equal(await other.import('os.path').join('a', 'b'), 'a/b')
    await assert.rejects(async () => other.import('os'), {
      type: 'PermissionError',
      message: /allow: \['os'\]/,
    })
  } finally {
    await other.close()
  }
})

test('a call is made even if nobody awaits it, after the current microtask', async () => {
  const box = await py.call('box', [0])
  const made = box.__setattr__('value', 8)
  await until('the attribute is set', async () => (await box.value) === 8)
  assert.equal(await made, null)
  assert.deepEqual(await box.counts(), [0, 0])
})

test('an attribute that nobody awaits is not asked for', async () => {
  const box = await py.call('box', [0])
  assert.equal(await calls(async () => void box.seen), 0)
})

test('what is awaited and gone on from, or gone on from twice, is evaluated once', async () => {
  const box = await py.call('box', [1])
  const more = box.add(1)
  assert.deepEqual(await Promise.all([more.get(), more.add(5).get()]), [2, 7])
  assert.deepEqual(await box.counts(), [0, 1])
  const again = box.add(10)
  const [whole, value] = await Promise.all([again, again.get()])
  assert.equal(await whole.value, 11)
  assert.equal(value, 11)
  const seen = box.seen
  assert.deepEqual(await Promise.all([seen.get(), seen.value]), [1, 1])
  assert.deepEqual(await box.counts(), [1, 2])
})

test('what was gone on from is used up, unless it was kept', async () => {
  const box = await py.call('box', [1])
  const more = box.add(1)
  assert.equal(await more.get(), 2)
  await assert.rejects(async () => more.get(), { name: 'TypeError', message: /keep\(remote\.add\(…\)\)/ })
  const kept = await keep(box.add(2))
  assert.deepEqual([await kept.get(), await kept.value], [3, 3])
  const array = await keep(py.import('numpy').arange(15).reshape(3, 5))
  assert.deepEqual([await array.ndim, await array.sum()], [2, 105])
  const value = py.import('numpy').arange(3)
  assert.deepEqual([...(await value)].map(Number), [0, 1, 2])
  await assert.rejects(async () => value.sum(), { name: 'TypeError', message: /has come here as a value/ })
})

test('a call that was sent before anybody asked for it can be awaited and gone on from later', async () => {
  const box = await py.call('box', [1])
  const more = box.add(1)
  const list = py.import('builtins').list(tuple(1, 2))
  await py.call('echo', [1])
  assert.deepEqual([await more.get(), await more.value, await list, await list[0]], [2, 2, [1, 2], 1])
})

test('a chain can be an argument of another, and does not come here', async () => {
  const box = await py.call('box', [1])
  const other = box.add(1)
  assert.equal(await box.__lt__(other), true)
  assert.equal(await box.same(box), true)
  assert.equal(await py.import('builtins').len(box), 7)
  await assert.rejects(
    async () => box.text([box.add(1)]),
    error => error instanceof EncodeError && /args\[0\]\[0\]/.test(error.message),
  )
  await assert.rejects(py.call('echo', [box.value]), EncodeError)
})

test("slices and tuples are Python's own", async () => {
  const box = await py.call('box')
  assert.deepEqual(await box.__getitem__(slice(1, 4)), ['slice', 'slice(1, 4, None)'])
  assert.deepEqual(await box.__getitem__(tuple(slice(), 0)), ['tuple', '(slice(None, None, None), 0)'])
  assert.deepEqual(await py.call('echo', [tuple(1, tuple(2))]), [1, [2]])
})

test('an object is the same object here, there, and on its way back', async () => {
  const box = await py.call('box', [5])
  assert.equal(await py.call('echo', [box]), box)
  assert.deepEqual(await py.call('echo', [{ deep: [box] }]), { deep: [box] })
  assert.equal(await box.same(box), true)
  assert.equal(await py.call('value_of', [box]), 5)
})

test('text, number and inspection of an object', async () => {
  const box = await py.call('box', [5])
  assert.equal(`${box}`, 'a box of 5')
  assert.equal(String(box.add(1)), 'a box of 6')
  assert.equal(Number(box), 5)
  assert.equal(await calls(async () => inspect({ box, value: box.value })), 0)
  assert.equal(inspect({ box, value: box.value }), '{ box: [Remote], value: [Chain] }')
  assert.equal(JSON.stringify({ box }), '{"box":{}}')
})

test('operators are methods', async () => {
  const [two, three] = await Promise.all([py.call('box', [2]), py.call('box', [3])])
  assert.equal(await two.__lt__(three), true)
  assert.equal(`${await two.__add__(40)}`, 'a box of 42')
  assert.equal(await two.__len__(), 7)
})

test('assigning and deleting say what to write instead', async () => {
  const box = await py.call('box')
  assert.throws(
    () => {
      box.value = 1
    },
    { name: 'TypeError', message: /await r\.__setattr__\('value', 1\)/ },
  )
  assert.throws(
    () => {
      box[0] = 'x'
    },
    { name: 'TypeError', message: /await r\.__setitem__\(0, 'x'\)/ },
  )
  assert.throws(
    () => {
      delete box.value
    },
    { name: 'TypeError', message: /await r\.__delattr__\('value'\)/ },
  )
  await box.__setattr__('value', 4)
  assert.equal(await box.value, 4)
  await box.__setitem__(1, 2)
  assert.deepEqual(await box.value, [1, 2])
})

test('an exception comes from the step that raised it', async () => {
  const box = await py.call('box')
  await assert.rejects(
    async () => box.add(1).fail('not there').get(),
    error => error instanceof PythonError && error.type === 'LookupError' && /not there/.test(error.message),
  )
  await assert.rejects(async () => box.nothing, { type: 'AttributeError' })
  assert.equal(await box.nothing.catch(error => error.type), 'AttributeError')
})

test('iteration takes one item after the other', async () => {
  const box = await py.call('box', [3])
  const items = []
  for await (const item of box) items.push(item)
  for await (const item of py.import('itertools').chain([3], [4])) items.push(item)
  assert.deepEqual(items, [0, 1, 2, 3, 4])
})

test('a context manager is left when its function ends, and knows of the error', async () => {
  const manager = await py.call('managed')
  assert.equal(await withContext(manager, async inside => inside.value), 1)
  assert.deepEqual(await py.call('take_events'), ['enter', ['exit', null]])
  const error = new Error('it went wrong')
  await assert.rejects(
    withContext(manager, () => {
      throw error
    }),
    error,
  )
  assert.match((await py.call('take_events'))[1][1], /it went wrong/)
  await withContext(manager, () => {
    throw new Error('swallow this')
  })
  assert.equal(await withContext(await py.call('managed_async'), value => value + 1), 6)
  assert.deepEqual((await py.call('take_events')).slice(2), ['aenter', 'aexit'])
})

test('what was entered is left when it is disposed of', async () => {
  const inside = await enter(
    py.import('contextlib').closing(await py.call('managed').then(() => py.call('count', [1]))),
  )
  assert.ok(isRemote(inside))
  await inside[Symbol.asyncDispose]()
  const box = await enter(await py.call('managed'))
  assert.equal(await box.value, 1)
  await box[Symbol.asyncDispose]()
  assert.deepEqual(await py.call('take_events'), ['enter', ['exit', null]])
})

test('`using` releases an object at the end of its block, `await using` leaves what was entered', async () => {
  await nothingLives()
  const directory = mkdtempSync(join(root, 'build', 'using-'))
  try {
    const options = [
      '--strict',
      '--module',
      'node20',
      '--target',
      'es2022',
      '--lib',
      'es2022,esnext.disposable',
    ]
    const files = ['--outDir', directory, join(root, 'tests/node/using.mts')]
    const tsc = join(root, 'node_modules/.bin/tsc')
    await promisify(execFile)(process.execPath, [tsc, ...options, '--types', 'node', ...files])
    const program = join(directory, 'using.mjs')
    const { stdout } = await promisify(execFile)(process.execPath, [program, py.name])
    assert.deepEqual(stdout.trim().split('\n'), [
      'the connection is closed',
      'holds a box of 7 1 []',
      'the object was released',
      "entered, and got a box of 1 1 [ 'enter' ]",
      "left 0 [ [ 'exit', null ] ]",
    ])
  } finally {
    rmSync(directory, { recursive: true })
  }
})

test('an object that was released is gone, here and there', async () => {
  await nothingLives()
  const box = await py.call('box')
  const disposed = await py.call('box')
  assert.equal(await py.call('living'), 2)
  assert.equal(box.release(), undefined)
  box.release()
  disposed[Symbol.dispose]()
  await until('they are gone', async () => (await py.call('living')) === 0)
  await assert.rejects(async () => box.value, /released/)
  await assert.rejects(py.call('echo', [box]), /released/)
  assert.equal(await (await py.call('box')).__getattribute__('release')(), "python's release")
})

test('objects and chains that nobody holds are collected in both languages', async () => {
  await nothingLives()
  for (let i = 0; i < 20; ++i) {
    const all = await py.call('boxes', [500])
    assert.equal(await all[7].value, 7)
    all[8].add(1)
    await all[9].add(1)
  }
  await until('they are gone, but for what V8 still has in a register', async () => {
    await collectGarbage()
    return (await py.call('living')) <= 500
  })
})

test('an object that is passed on to another isolate works there, and comes back as itself', async () => {
  const other = await connect(py.name)
  try {
    const held = []
    other.export('look', async box => {
      held.push(box)
      return [isRemote(box), await box.value, await box.add(1).get(), `${box}`, box]
    })
    other.export('plus', n => m => n + m)
    const box = await py.call('box', [9])
    assert.deepEqual(await py.call('look', [box]), [true, 9, 10, 'a box of 9', box])
    box.release()
    assert.equal(await held[0].value, 9)
    const adder = await py.call('plus', [1])
    assert.equal(typeof adder, 'function')
    assert.equal(await adder(2), 3)
    assert.equal(await adder(2).then(sum => sum + 1), 4)
    await assert.rejects(async () => adder.length, /not accessed/)
  } finally {
    await other.close()
  }
})

test('a call of an object may have a timeout', async () => {
  const sleep = await py.import('time').sleep
  await assert.rejects(py.call(sleep, [0.3], { timeout: 20 }), TimeoutError)
})

test('a callback uses the objects of the host that waits for it', async () => {
  const box = await py.call('box', [2])
  const twice = async object => (await object.add(2).get()) * (await object.get())
  assert.equal(await py.call('apply', [twice, box]), 8)
  const answers = await Promise.all(
    [1, 2, 3].map(n => py.call('apply', [object => object.add(n).get(), box])),
  )
  assert.deepEqual(answers, [3, 4, 5])
  const items = []
  await py.call('apply', [
    async object => {
      for await (const item of object) items.push(item)
    },
    box,
  ])
  assert.deepEqual(items, [0, 1])
  assert.equal(py.callSync('apply', [object => `${object}`, box]), 'a box of 2')
})

test('where a value that can not travel sits is told of iterations, too', async () => {
  const stream = py.import('itertools').chain([Symbol('x')])
  await assert.rejects(
    async () => {
      for await (const _ of stream) assert.fail()
    },
    { path: 'args[0][0]' },
  )
})

test('an object whose host is gone says so, however it is used', async () => {
  const other = await spawn(app)
  const box = await other.call('box')
  const pid = await other.import('os').getpid()
  const flying = other.import('time').sleep(10)
  await delay(20)
  process.kill(pid, 'SIGKILL')
  await assert.rejects(async () => flying, HostLostError)
  await assert.rejects(async () => box.value, HostLostError)
  await assert.rejects(async () => box.add(1).get(), HostLostError)
  await assert.rejects(async () => {
    for await (const _ of box) assert.fail()
  }, HostLostError)
  assert.throws(() => String(box), HostLostError)
  box.release()
  await other.close()
  await assert.rejects(async () => box.value, { code: /ERR_ISTHMUS_(RELEASED|CLOSED)/ })
})
