import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { inspect } from 'node:util'
import { connect, spawn } from 'isthmus'
import { app } from './support.mjs'

let py
before(async () => {
  py = await spawn(app)
})
after(() => py.close())

const says = message => ({ name: 'TypeError', message })

test('an option that is not there is an error that names it, and what is close', async () => {
  const call = says("call has no option 'timout': did you mean 'timeout'?")
  await assert.rejects(py.call('add', [1, 2], { timout: 5 }), call)
  await assert.rejects(
    spawn(app, { alow: ['numpy'] }),
    says("spawn has no option 'alow': did you mean 'allow'?"),
  )
  await assert.rejects(
    connect(py.name, { Sticky: true }),
    says("connect has no option 'Sticky': did you mean 'sticky'?"),
  )
  assert.throws(
    () => py.callSync('add', [1, 2], { kwarg: {} }),
    says("callSync has no option 'kwarg': did you mean 'kwargs'?"),
  )
  assert.throws(
    () => py.stream('items', [], { singal: null }),
    says("stream has no option 'singal': did you mean 'signal'?"),
  )
  await assert.rejects(
    py.callMany('add', [[1, 2]], { setled: true }),
    says("callMany has no option 'setled': did you mean 'settled'?"),
  )
})

test('where nothing is close, the error tells which options there are', async () => {
  await assert.rejects(
    connect(py.name, { python: 'python3' }),
    says("connect has no option 'python': it has 'timeout', 'wait' and 'sticky'"),
  )
  assert.throws(
    () => py.post('post', [1], { timeout: 5 }),
    says("post has no option 'timeout': it has 'kwargs' and 'sticky'"),
  )
})

test('connect is sticky or not, and keeps to no key', async () => {
  for (const sticky of ['x', 1, null])
    await assert.rejects(
      connect(py.name, { sticky }),
      says(`sticky is true or false, and not ${inspect(sticky)}`),
    )
})

test('queues and topics take what can be so at once, with nobody asked', async () => {
  const nowhere = await connect(py.name)
  const topic = nowhere.topic('checked')
  const many = [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, '5', null, 5n]
  const refused = (option, value) => ({
    name: typeof value === 'number' ? 'RangeError' : 'TypeError',
    message: `${option} is a whole number from 1 on, and not ${inspect(value)}`,
  })
  for (const value of many) {
    for (const option of ['depth', 'deliveries', 'prefetch'])
      assert.throws(() => nowhere.queue('checked', { [option]: value }), refused(option, value))
    assert.throws(() => topic.subscribe({ depth: value }), refused('depth', value))
  }
  for (const onFull of ['drop', 5, null])
    assert.throws(
      () => topic.subscribe({ onFull }),
      says(`onFull is 'wait' or 'drop-oldest', and not ${inspect(onFull)}`),
    )
  await nowhere.close()
})

test('queues and topics know their options', async () => {
  const [queue, topic] = [py.queue('known'), py.topic('known')]
  const wait = "it has 'timeout' and 'signal'"
  assert.throws(
    () => py.queue('known', { dept: 5 }),
    says("queue has no option 'dept': did you mean 'depth'?"),
  )
  await assert.rejects(queue.put(1, { depth: 5 }), says(`put has no option 'depth': ${wait}`))
  await assert.rejects(queue.get({ prefetch: 5 }), says(`get has no option 'prefetch': ${wait}`))
  await assert.rejects(topic.publish(1, { onFull: 'wait' }), says(`publish has no option 'onFull': ${wait}`))
  assert.throws(
    () => topic.subscribe({ onfull: 'wait' }),
    says("subscribe has no option 'onfull': did you mean 'onFull'?"),
  )
  await queue.put(1, { timeout: 5000 })
  const message = await queue.get({ timeout: 5000 })
  assert.equal(message.value, 1)
  message.ack()
  assert.doesNotMatch(inspect(py), /isthmus\./)
  await queue.close()
})

test('names that every object has are no options', async () => {
  for (const name of ['constructor', 'toString', '__proto__']) {
    const options = Object.defineProperty({}, name, { value: 1, enumerable: true })
    await assert.rejects(py.call('add', [1, 2], options), TypeError)
  }
})

test('options that are no object are refused', async () => {
  await assert.rejects(
    py.call('add', [1], [2]),
    says("call has no option '0': it has 'kwargs', 'timeout', 'signal', 'sticky' and 'keep'"),
  )
  for (const options of [5000, 'fast', true, null, () => {}]) {
    await assert.rejects(
      py.call('add', [1, 2], options),
      says(/^the options of call come as an object: \{ kwargs: … \}$/),
    )
    await assert.rejects(connect(py.name, options), says(/^the options of connect come as an object/))
  }
})

test('options that are there do what they did, in one object with or without the others', async () => {
  const signal = new AbortController().signal
  const options = { kwargs: undefined, timeout: 5000, signal, sticky: 'key', keep: false }
  assert.equal(await py.call('add', [1, 2], options), 3)
  assert.equal(await py.call('add', [1, 2], Object.freeze(Object.create({ timeout: 5000 }))), 3)
  assert.deepEqual(
    await py.callMany('add', [[1, 2], [3]], { ...options, settled: true }).then(([sum]) => sum),
    3,
  )
  assert.equal(await py.call('add', [1, 2], undefined), 3)
})
