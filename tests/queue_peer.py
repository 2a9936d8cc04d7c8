"""A process that does with queues what it is told, line by line, and says what came of it."""

import json
import sys

import isthmus


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


bus = isthmus.connect(sys.argv[1])
q = bus.queue("q", prefetch=int(sys.argv[2]))
held = []
say("there")
for line in sys.stdin:
    verb, *arguments = json.loads(line)
    if verb == "put":
        q.put(*arguments)
    elif verb == "get":
        try:
            held.append(q.get(timeout=arguments[0] if arguments else None))
        except isthmus.TimeoutError:
            say(None)
        else:
            say([held[-1].value, held[-1].deliveries])
        continue
    elif verb == "ack":
        held.pop(0).ack()
    elif verb == "reject":
        held.pop(0).reject()
    elif verb == "close":
        q.close()
    elif verb == "subscribe":
        on_full, depth = arguments
        feed = bus.topic("t").subscribe(on_full=on_full, depth=depth)
    elif verb == "next":
        say([feed.get(), feed.dropped])
        continue
    elif verb == "publish":
        value, *timeout = arguments
        try:
            bus.topic("t").publish(value, timeout=timeout[0] if timeout else None)
        except isthmus.TimeoutError:
            q.stats()  # what was withdrawn is withdrawn by then
            say("no room")
            continue
    elif verb == "relay":
        results = bus.queue("results")
        say("done")
        for message in q:
            results.put(message.value)
            message.ack()
    say("done")
