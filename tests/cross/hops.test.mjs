// Errors on their way through several languages: types, causes, each side's stack, and the same error at home.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { IsthmusError, PythonError } from 'isthmus'
import { languages, meetBefore, privateDirectory, third } from './lib.mjs'

privateDirectory()

for (const language of languages) {
  describe(`with ${language}`, () => {
    let peer
    const other = meetBefore(language, () => {
      peer = other.peer
    })
    const [type, cause] = language === 'python' ? ['ValueError', 'KeyError'] : ['RangeError', 'TypeError']

    test('an error arrives with its type, message, stack and cause', async () => {
      await assert.rejects(peer.call('fail'), error => {
        assert.ok(error instanceof IsthmusError && error.constructor !== IsthmusError)
        assert.equal(error.constructor.name, language === 'python' ? 'PythonError' : 'JsError')
        assert.equal(error.type, type)
        assert.match(error.message, /a value/)
        assert.match(error.stack, language === 'python' ? /peer\.py", line \d+, in fail/ : /fail.*peer\.mjs/)
        assert.equal(error.cause.type, cause)
        return true
      })
    })

    test('an error of theirs that passes through us is the same for them', async () => {
      assert.equal(await peer.call('is_the_same', [thrower => thrower()]), true)
      assert.equal(await peer.call('is_the_same', [async thrower => await thrower()]), true)
      let caught
      const catcher = async thrower => {
        try {
          return await thrower()
        } catch (error) {
          caught = error
          throw error
        }
      }
      assert.equal(await peer.call('is_the_same', [catcher]), true)
      assert.equal(caught.type, language === 'python' ? 'ValueError' : 'RangeError')
    })

    test('an error of ours that passes through them is the same for us', async () => {
      const error = new TypeError('ours')
      const thrower = () => {
        throw error
      }
      for (const apply of ['apply', 'apply_thread', 'apply_async']) {
        await assert.rejects(peer.call(apply, [thrower]), each => each === error)
        await assert.rejects(peer.call(apply, [() => peer.call(apply, [thrower])]), each => each === error)
      }
      assert.throws(
        () => peer.callSync('apply', [() => peer.callSync('apply', [thrower])]),
        each => each === error,
      )
    })

    test('an error of ours that comes home tells where it has been, once', async () => {
      const error = new TypeError('ours')
      const thrower = () => {
        throw error
      }
      for (let i = 0; i < 3; i++) await peer.call('apply', [thrower]).catch(() => {})
      assert.equal(error.stack.match(/TypeError: ours/g).length, 1)
      const isPython = language === 'python'
      assert.equal(error.stack.match(/— through Python —/g)?.length ?? 0, isPython ? 1 : 0)
      if (isPython) assert.match(error.stack, /in apply/)
    })

    test('there, here, there, here: an error keeps its type, its cause and every stack', async () => {
      const throughHere = async () => await peer.call('fail')
      await assert.rejects(peer.call('apply', [throughHere]), error => {
        assert.equal(error.type, type)
        assert.equal(error.cause.type, cause)
        assert.match(error.stack, /in fail|fail.*peer\.mjs/)
        assert.match(error.stack, /— through JavaScript —/)
        return true
      })
      const told = await peer.call('told', [throughHere])
      assert.equal(told.type, type)
      assert.equal(told.cause.type, cause)
    })

    test('an error of ours is the cause of theirs', async () => {
      const ours = new RangeError('ours')
      const thrower = () => {
        throw ours
      }
      await assert.rejects(peer.call('wrap', [thrower]), error => {
        assert.match(error.message, /wrapped/)
        assert.equal(error.type, language === 'python' ? 'RuntimeError' : 'Error')
        assert.equal(error.cause.type ?? error.cause.name, 'RangeError')
        assert.match(error.cause.message, /ours/)
        return true
      })
    })

    test('their error is the cause of ours, and they are told of both', async () => {
      const wrapping = async () => {
        try {
          await peer.call('fail')
        } catch (error) {
          throw new TypeError('wrapped here', { cause: error })
        }
      }
      const told = await peer.call('told', [wrapping])
      assert.equal(told.type, 'TypeError')
      assert.match(told.message, /wrapped here/)
      assert.match(told.stack, /wrapping/)
      assert.equal(told.cause.type, type)
      assert.equal(told.cause.cause.type, cause)
      await assert.rejects(peer.call('apply', [wrapping]), error => {
        assert.ok(error instanceof TypeError && error.message === 'wrapped here')
        assert.equal(error.cause.type, type)
        return true
      })
    })

    test('through a third process and back, each side adds its own error', async () => {
      const player = await third(other.name, 'third.')
      const failing = () => peer.call('fail')
      const throughThem = () => peer.call('apply', [failing])
      await assert.rejects(peer.call('third.wrap', [throughThem]), error => {
        assert.equal(error.constructor.name, 'JsError')
        assert.deepEqual([error.type, error.cause.type, error.cause.cause.type], ['Error', type, cause])
        assert.match(error.traceback, /wrap.*peer\.mjs/s)
        assert.match(error.cause.traceback ?? error.cause.stack, /in fail|fail.*peer\.mjs/s)
        return true
      })
      const ours = new RangeError('ours')
      const thrower = () => {
        throw ours
      }
      await assert.rejects(
        peer.call('third.apply', [() => peer.call('apply', [thrower])]),
        each => each === ours,
      )
      player.child.stdin.end()
      await player.ended
    })

    test('what is thrown and is no error is told, too', async () => {
      for (const thrown of ['a text', 7, null, { code: 3 }]) {
        await assert.rejects(
          peer.call('apply', [
            () => {
              throw thrown
            },
          ]),
        )
      }
      assert.equal(await peer.call('echo', [1]), 1)
    })
  })
}

describe('in a Python host', () => {
  let py
  const other = meetBefore('python', () => {
    py = other.peer
  })

  for (const name of ['KeyboardInterrupt', 'SystemExit', 'Unprintable']) {
    test(`${name} is an error of its call, also on its way through JavaScript, and the host lives on`, async () => {
      const check = error => error instanceof PythonError && error.type === name
      await assert.rejects(py.call('fail', [name]), check)
      assert.throws(() => py.callSync('fail', [name]), check)
      for (const apply of ['apply', 'apply_thread', 'apply_async']) {
        await assert.rejects(py.call(apply, [() => py.call('fail', [name])]), check)
      }
      assert.equal((await py.call('told', [() => py.call('fail', [name])])).class, name)
      assert.equal(await py.call('echo', [1]), 1)
    })
  }

  test('the stacks of both languages are in the error', async () => {
    const throughJavaScript = () => py.call('fail')
    await assert.rejects(py.call('apply', [throughJavaScript]), error => {
      const stack = `${error.stack}${error.traceback}`
      assert.match(stack, /peer\.py", line \d+, in fail/)
      assert.match(stack, /through JavaScript/)
      return true
    })
  })
})
