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


def count(client, resp3):
    """Counters: increments, a batch, its confirmation."""
    call = client.execute_command
    assert call("COUNTER.INCR", "py", "a", 40) == 40
    assert call("COUNTER.MINCR", "py", "a", 2, "b", 1) == [42, 1]
    assert call("COUNTER.GET", "py", "a") == 42 and call("COUNTER.MGET", "py", "a", "none") == [42, 0]
    pipe = client.pipeline(transaction=False)
    for number in range(100):
        pipe.execute_command("COUNTER.INCR", "py", f"p{number}")
    assert pipe.execute() == [1] * 100
    taken, ids = {}, []
    for batch in call("COUNTER.TAKE", "py"):
        batch = batch if resp3 else dict(zip(("id", "attempt", "entries", "prev"), batch))
        entries = batch["entries"]
        taken.update(entries if resp3 else zip(entries[::2], entries[1::2]))
        ids.append(batch["id"])
    assert taken == {"a": 42, "b": 1, **{f"p{number}": 1 for number in range(100)}}, taken
    assert call("COUNTER.TAKE", "py") == []
    assert call("COUNTER.ACK", "py", *ids) == len(ids) and call("COUNTER.ACK", "py", *ids) == 0
    pending = call("COUNTER.PENDING", "py")
    pending = pending if resp3 else dict(zip(pending[::2], pending[1::2]))
    assert pending["members"] == 0 and pending["lag-ms"] is None, pending
    pipe = client.pipeline()
    try:
        pipe.execute_command("COUNTER.INCR", "py", "a").execute()
        raise AssertionError("a transaction took it")
    except redis.ResponseError as error:
        assert "not allowed in MULTI" in str(error), error
    call("COUNTER.DEL", "py")


for options in ({}, {"db": 2}, {"protocol": 2}, {"db": 4, "protocol": 2}, {"protocol": 3}):
    with redis.Redis(port=port, decode_responses=True, **options) as client:
        work(client)
        count(client, str(client.client_info()["resp"]) == "3")

try:
    redis.Redis(port=port, db=9).ping()
    raise AssertionError("database 9 does not exist")
except redis.ResponseError as error:
    assert "out of range" in str(error), error
print("ok")
