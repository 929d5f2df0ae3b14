"""Client-side caching with redis-py as it comes: a cache that others' writes keep true."""

import sys
import time

import redis
from redis.cache import CacheConfig

port = int(sys.argv[1])


def until(what, condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


plain = redis.Redis(port=port, decode_responses=True)
with redis.Redis(port=port, protocol=3, decode_responses=True, cache_config=CacheConfig()) as client:
    cache = client.get_cache()
    assert cache is not None
    # Keys of several shards, which are on both nodes.
    keys = [f"py:cache:{number}" for number in range(20)]
    for key in keys:
        client.set(key, "one")
    for key in keys:
        assert client.get(key) == "one"
    until("what was read is cached", lambda: [client.get(key) for key in keys] and cache.size == len(keys))

    # Served from the cache: the proxy sees no request.
    asked = plain.info("commandstats").get("cmdstat_get", {}).get("calls")
    assert [client.get(key) for key in keys] == ["one"] * len(keys)
    assert plain.info("commandstats").get("cmdstat_get", {}).get("calls") == asked

    # Whatever changes a key is seen.
    for round in range(20):
        key = keys[round]
        if round % 4 == 0:
            plain.delete(key)
            expected = None
        elif round % 4 == 1:
            plain.mset({key: str(round), keys[0]: "other"})
            expected = str(round)
        elif round % 4 == 2:
            plain.set(key, str(round))
            expected = str(round)
        else:
            client.set(key, str(round))
            expected = str(round)
        until(f"{key} is {expected}", lambda: client.get(key) == expected)
    client.hset("py:cache:h", mapping={"a": "1"})
    assert client.hgetall("py:cache:h") == {"a": "1"}
    plain.hset("py:cache:h", "b", "2")
    until("the hash is read again", lambda: client.hgetall("py:cache:h") == {"a": "1", "b": "2"})
    assert client.mget(keys[1], keys[2]) == ["1", "2"]
    plain.mset({keys[1]: "x", keys[2]: "y"})
    until("both are read again", lambda: client.mget(keys[1], keys[2]) == ["x", "y"])
    plain.set("py:cache:short", "1", px=50)
    client.get("py:cache:short")
    until("it has expired", lambda: client.get("py:cache:short") is None)
    plain.flushall()
    until("all is gone", lambda: [client.get(key) for key in keys] == [None] * len(keys))
    # At the end every cached value is what the store has.
    for key in keys:
        plain.set(key, "last")
    until("all is new", lambda: [client.get(key) for key in keys] == ["last"] * len(keys))

print("ok")
