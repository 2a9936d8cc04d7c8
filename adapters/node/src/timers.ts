// Times that users give.

const longestTimer = 2 ** 31 - 1

/** The number, if it is one of milliseconds. @throws RangeError */
export function milliseconds(timeout: number): number {
  if (timeout >= 0) return timeout
  throw new RangeError(`${timeout} is no number of milliseconds`)
}

/** A timer, which keeps no program alive; none without a limit: 0, or more than a timer can wait for. */
export function after(timeout: number, tooLate: () => void): NodeJS.Timeout | undefined {
  if (timeout === 0 || timeout > longestTimer) return undefined
  return setTimeout(tooLate, timeout).unref()
}
