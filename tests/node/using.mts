// What remote.test.mjs compiles, so that it runs on every Node: node using.mjs BUS

import { type Bus, connect, enter, type Remote } from 'isthmus'

let closed: Bus
{
  await using other = await connect(process.argv[2] as string)
  closed = other
}
console.log(await closed.call('living').catch((error: Error) => error.message))
await using py = await connect(process.argv[2] as string)
const say = async (what: string) => console.log(what, await py.call('living'), await py.call('take_events'))
let kept: Remote
{
  using box = (await py.call('box', [7])) as Remote
  kept = box
  await say(`holds a box of ${await box.value}`)
}
console.log(await kept.value.catch((error: Error) => error.message))
{
  await using entered = await enter((await py.call('managed')) as Remote)
  await say(`entered, and got a box of ${await entered.value}`)
}
await say('left')
