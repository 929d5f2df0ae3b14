"""What an application that was written for one Redis does, through `preshard audit`: it must notice nothing."""

import sys
import threading

import redis

port = int(sys.argv[1])

for protocol in (2, 3):
    with redis.Redis(port=port, protocol=protocol, client_name="web", decode_responses=True) as client:
        for number in range(20):
            client.set(f"au:{number}", number)
        assert client.mget("au:1", "au:2", "au:none") == ["1", "2", None]
        with client.pipeline(transaction=True) as transaction:
            assert transaction.incr("au:1").incr("au:2").execute() == [2, 3]
        with client.pipeline() as transaction:
            transaction.watch("au:1")
            transaction.multi()
            assert transaction.set("au:1", 1).set("au:2", 2).execute() == [True, True]
        assert client.rename("au:1", "au:3")
        assert client.eval("return redis.call('GET', 'au:2')", 0) == "2"
        assert client.eval("return redis.call('GET', KEYS[1])", 1, "au:2") == "2"
        assert client.config_set("maxmemory-samples", 5)
        value = "x" * 3_000_000
        assert client.set("au:large", value) and client.get("au:large") == value

        # It waits for data that somebody else brings.
        waiting = threading.Thread(target=lambda: results.append(client.blpop(["au:q1", "au:q2"], timeout=20)))
        results = []
        waiting.start()
        with redis.Redis(port=port, client_name="worker", db=3, decode_responses=True) as other:
            assert other.rename(other.set("a", 1) and "a", "b")
            other.select(0)
            other.rpush("au:q2", "job")
            waiting.join()
            assert list(results[0]) == ["au:q2", "job"], results

        listener = client.pubsub(ignore_subscribe_messages=True)
        listener.subscribe("au:news")
        while client.publish("au:news", "hello") == 0:
            pass
        message = None
        while message is None:
            message = listener.get_message(timeout=1.0)
        assert message["data"] == "hello"
        listener.close()
        assert client.flushall()
print("ok")
