// Abort signals that many calls share: one listener for each signal, since adding and removing one of many takes time for each
// of the others, and Node warns of more than ten.

/** What is to be done when a signal is aborted. */
export type OnAbort = () => void

interface Shared {
  readonly all: Set<OnAbort>
  readonly listener: () => void
}

const shared = new WeakMap<AbortSignal, Shared>()

/** Has something done when the signal is aborted, until `unlisten`. */
export function listen(signal: AbortSignal, onAbort: OnAbort): void {
  let entry = shared.get(signal)
  if (entry === undefined) {
    const all = new Set<OnAbort>()
    const listener = () => {
      shared.delete(signal)
      for (const each of all) each()
    }
    entry = { all, listener }
    shared.set(signal, entry)
    signal.addEventListener('abort', listener, { once: true })
  }
  entry.all.add(onAbort)
}

export function unlisten(signal: AbortSignal, onAbort: OnAbort): void {
  const entry = shared.get(signal)
  if (entry === undefined || !entry.all.delete(onAbort) || entry.all.size > 0) return
  shared.delete(signal)
  signal.removeEventListener('abort', entry.listener)
}
