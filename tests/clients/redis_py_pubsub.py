"""Publish and subscribe with redis-py, no option changed: channels, patterns, a thread of its own, a pinned database."""

import sys
import threading

import redis

port = int(sys.argv[1])


def next_of(listener, kind):
    for _ in range(20):
        message = listener.get_message(timeout=1.0)
        if message is not None and message["type"] == kind:
            return message
    raise AssertionError(f"no {kind} came")


for options in ({}, {"protocol": 2}, {"db": 3}, {"db": 3, "protocol": 2}):
    with redis.Redis(port=port, decode_responses=True, **options) as client:
        with client.pubsub() as listener:
            listener.subscribe("py:news", "py:weather")
            listener.psubscribe("py:n*")
            for _ in range(2):
                next_of(listener, "subscribe")
            assert next_of(listener, "psubscribe")["data"] == 3
            assert client.publish("py:news", "hello") == 2
            assert next_of(listener, "message")["data"] == "hello"
            got = next_of(listener, "pmessage")
            assert (got["pattern"], got["channel"], got["data"]) == ("py:n*", "py:news", "hello"), got
            if options.get("protocol") == 2:
                # In RESP3 redis-py makes no message of the answer, be it from a Redis or from preshard.
                listener.ping("there?")
                assert next_of(listener, "pong")["data"] == "there?"
            assert client.pubsub_numsub("py:news") == [("py:news", 1)]
            assert client.pubsub_numpat() == 1
            assert sorted(client.pubsub_channels()) == ["py:news", "py:weather"]
            listener.unsubscribe("py:news")
            next_of(listener, "unsubscribe")
            assert client.publish("py:news", "again") == 1
            assert next_of(listener, "pmessage")["data"] == "again"

        heard = threading.Event()
        with client.pubsub(ignore_subscribe_messages=True) as listener:
            listener.subscribe(**{"py:thread": lambda message: heard.set()})
            thread = listener.run_in_thread(sleep_time=0.01)
            for _ in range(100):
                client.publish("py:thread", "x")
                if heard.wait(0.1):
                    break
            assert heard.is_set()
            thread.stop()
            thread.join()
        with client.pipeline() as transaction:
            assert transaction.set("py:a", 1).publish("py:nobody", "x").execute() == [True, 0]
print("ok")
