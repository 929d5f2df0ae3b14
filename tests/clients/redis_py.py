"""redis-py with no option changed, through preshard: connect, work, pipeline, scan, a pinned database."""

import sys

import redis

port = int(sys.argv[1])


def work(client):
    assert client.ping()
    assert client.set("py:a", "1")
    assert client.incr("py:a", 41) == 42
    assert client.mset({"py:b": "x", "py:c": "y"})
    assert client.mget("py:b", "py:none", "py:c") == ["x", None, "y"]
    client.hset("py:h", mapping={"f": "1", "g": "2"})
    assert client.hgetall("py:h") == {"f": "1", "g": "2"}
    client.zadd("py:z", {"m": 1.5, "n": 2})
    assert client.zrange("py:z", 0, -1, withscores=True) in ([("m", 1.5), ("n", 2.0)], [["m", 1.5], ["n", 2.0]])
    client.xadd("py:x", {"k": "v"})
    assert client.xlen("py:x") == 1
    client.rpush("py:l", *range(5))
    assert client.lrange("py:l", 0, -1) == ["0", "1", "2", "3", "4"]
    pipe = client.pipeline(transaction=False)
    for number in range(200):
        pipe.incr(f"py:p:{number % 10}")
    assert pipe.execute() == [number // 10 + 1 for number in range(200)]
    keys = sorted(client.scan_iter("py:*", count=100))
    assert len(keys) == 17, keys
    try:
        client.rpush("py:a", "x")
        raise AssertionError("no WRONGTYPE")
    except redis.ResponseError as error:
        assert str(error).startswith("WRONGTYPE"), error
    assert client.info()["redis_mode"] == "standalone"
    assert client.client_id() > 0
    assert client.exists(*keys) == 17
    assert client.delete(*keys) == 17
    assert client.dbsize() == 0


for options in ({}, {"db": 2}, {"protocol": 2}, {"db": 4, "protocol": 2}):
    with redis.Redis(port=port, decode_responses=True, **options) as client:
        work(client)

try:
    redis.Redis(port=port, db=9).ping()
    raise AssertionError("database 9 does not exist")
except redis.ResponseError as error:
    assert "out of range" in str(error), error
print("ok")
