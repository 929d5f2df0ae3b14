"""redis-py of any version, and valkey-py, which kept its names.

    redis_py.py MODULE PORT DATABASE
"""

import importlib
import sys
import threading
import time

module, port, db = importlib.import_module(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
Client = getattr(module, "Redis", None) or module.Valkey
print("version", module.__version__)


def connect(**options):
    return Client(port=port, db=db, decode_responses=True, **options)


def refused(call, words):
    try:
        call()
    except module.ResponseError as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"not refused: {words}")


client = connect()
client.flushdb()
assert client.ping() and client.set("py:a", "1") and client.incr("py:a", 41) == 42
refused(lambda: client.rpush("py:a", "x"), "WRONGTYPE")
assert client.hset("py:h", mapping={"f": "1"}) == 1 and client.hgetall("py:h") == {"f": "1"}
print("protocol", client.client_info().get("resp", "?"))
print("did commands")

assert client.mset({f"py:m:{n}": n for n in range(50)})
assert client.mget([f"py:m:{n}" for n in range(50)] + ["py:none"]) == [str(n) for n in range(50)] + [None]
assert client.delete(*(f"py:m:{n}" for n in range(50))) == 50
print("did multi-key")

pipe = client.pipeline(transaction=False)
for number in range(1000):
    pipe.incr(f"py:p:{number % 100}")
assert pipe.execute() == [number // 100 + 1 for number in range(1000)]
print("did pipeline")

a, b = ("py:{t}:a", "py:{t}:b") if db == 0 else ("py:t:a", "py:other:b")
assert client.pipeline().set(a, "1").incr(a).set(b, "x").get(b).execute() == [True, 2, True, "x"]
with client.pipeline() as pipe:
    pipe.watch(a)
    client.set(a, "7")
    pipe.multi()
    pipe.set(a, "8")
    try:
        pipe.execute()
        raise AssertionError("a watched key changed and EXEC ran")
    except module.WatchError:
        pass
def raise_watched(pipe):
    value = int(pipe.get(a))
    pipe.multi()
    pipe.set(a, value + 1)


assert client.transaction(raise_watched, a) == [True] and client.get(a) == "8"
if db == 0:
    refused(lambda: client.pipeline().set("py:one", 1).set("py:two", 2).execute(), "shard")
print("did transaction")

heard = client.pubsub(ignore_subscribe_messages=False)
heard.subscribe("py:channel")
heard.psubscribe("py:pat*")
assert {heard.get_message(timeout=5)["type"] for _ in range(2)} == {"subscribe", "psubscribe"}
assert client.publish("py:channel", "one") == 1 and client.publish("py:pattern", "two") == 1
assert [heard.get_message(timeout=5)["data"] for _ in range(2)] == ["one", "two"]
heard.close()
print("did pub/sub")

timer = threading.Timer(0.1, lambda: connect().rpush("py:list", "job"))
timer.start()
assert list(client.blpop("py:list", timeout=5)) == ["py:list", "job"]
assert client.blpop("py:list", timeout=1) is None
print("did blocking pop")

double = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
assert double(keys=["py:s"], args=[2]) == 2
client.script_flush()
assert double(keys=["py:s"], args=[3]) == 5
print("did script")

assert {key for key in client.scan_iter("py:p:*", count=10)} == {f"py:p:{n}" for n in range(100)}
assert client.sadd("py:set", *range(1000)) == 1000 and len(set(client.sscan_iter("py:set"))) == 1000
print("did scan")

big = "x" * 8_000_000
assert client.set("py:big", big) and client.get("py:big") == big
print("did 8 MB value")

other = connect()
mine = client.client_id()
assert other.client_kill_filter(_id=mine) == 1
end = time.monotonic() + 10
while time.monotonic() < end:
    try:
        if client.client_id() != mine:
            break
    except (module.ConnectionError, module.TimeoutError):
        pass
assert client.client_id() != mine and client.set("py:after", "1") and other.get("py:after") == "1"
print("did reconnect")

client.flushdb()
assert client.dbsize() == 0
print("ok")
