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
        feed = bus.topic("t").subscribe(depth=1)
    elif verb == "relay":
        results = bus.queue("results")
        say("done")
        for message in q:
            results.put(message.value)
            message.ack()
    say("done")
