"""Valkey GLIDE for Python: a Rust core, RESP3, one multiplexed connection.

    valkey_glide.py PORT DATABASE
"""

import asyncio
import sys
from importlib.metadata import version

import glide
from glide import Batch, GlideClient, GlideClientConfiguration, NodeAddress, Script

port, db = int(sys.argv[1]), int(sys.argv[2])
PubSub = GlideClientConfiguration.PubSubSubscriptions
Modes = GlideClientConfiguration.PubSubChannelModes


async def connect(**options):
    config = GlideClientConfiguration([NodeAddress("127.0.0.1", port)], database_id=db, request_timeout=5000, **options)
    return await GlideClient.create(config)


async def main():
    print("version", version("valkey-glide"))
    client, other = await connect(), await connect()
    await client.flushdb()
    assert await client.set("gl:a", "1") == "OK" and await client.incrby("gl:a", 41) == 42
    assert await client.hset("gl:h", {"f": "1"}) == 1 and await client.hgetall("gl:h") == {b"f": b"1"}
    info = (await client.custom_command(["CLIENT", "INFO"])).decode()
    print("protocol", dict(part.split("=", 1) for part in info.split()).get("resp", "?"))
    print("did commands")

    keys = [f"gl:m:{n}" for n in range(50)]
    assert await client.mset({key: key for key in keys}) == "OK"
    assert await client.mget(keys) == [key.encode() for key in keys]
    assert await client.delete(keys) == 50
    print("did multi-key")

    batch = Batch(is_atomic=False)
    for n in range(1000):
        batch.incr(f"gl:p:{n % 100}")
    assert await client.exec(batch, raise_on_error=True) == [n // 100 + 1 for n in range(1000)]
    print("did pipeline")

    a, b = ("gl:{t}:a", "gl:{t}:b") if db == 0 else ("gl:t:a", "gl:other:b")
    batch = Batch(is_atomic=True)
    batch.set(a, "1")
    batch.incr(a)
    batch.set(b, "x")
    assert await client.exec(batch, raise_on_error=True) == ["OK", 2, "OK"]
    assert await client.watch([a]) == "OK"
    await other.set(a, "7")
    assert await client.exec(batch, raise_on_error=True) is None
    print("did transaction")

    heard = await connect(pubsub_subscriptions=PubSub({Modes.Exact: {"gl:channel"}, Modes.Pattern: {"gl:pat*"}}, None, None))
    # GLIDE subscribes in the background.
    for _ in range(100):
        if (await client.custom_command(["PUBSUB", "NUMPAT"])) == 1 and await client.pubsub_channels() == [b"gl:channel"]:
            break
        await asyncio.sleep(0.05)
    assert await client.publish("one", "gl:channel") == 1
    assert await client.publish("two", "gl:pattern") == 1
    said = [(await asyncio.wait_for(heard.get_pubsub_message(), 10)).message for _ in range(2)]
    assert said == [b"one", b"two"], said
    await heard.close()
    print("did pub/sub")

    async def push():
        await asyncio.sleep(0.1)
        await other.rpush("gl:list", ["job"])

    task = asyncio.create_task(push())
    assert await client.blpop(["gl:list"], 5) == [b"gl:list", b"job"]
    await task
    assert await client.blpop(["gl:list"], 1) is None
    print("did blocking pop")

    script = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert await client.invoke_script(script, keys=["gl:s"], args=["2"]) == 2
    await client.script_flush()
    assert await client.invoke_script(script, keys=["gl:s"], args=["3"]) == 5
    print("did script")

    found, cursor = set(), b"0"
    while True:
        cursor, part = await client.scan(cursor, match="gl:p:*", count=10)
        found.update(part)
        if cursor == b"0":
            break
    assert len(found) == 100, len(found)
    print("did scan")

    big = b"x" * 8_000_000
    await client.set("gl:big", big)
    assert await client.get("gl:big") == big
    print("did 8 MB value")

    mine = await client.client_id()
    assert await other.custom_command(["CLIENT", "KILL", "ID", str(mine)]) == 1
    for _ in range(200):
        try:
            if await client.client_id() != mine:
                break
        except glide.GlideError:
            pass
        await asyncio.sleep(0.05)
    assert await client.client_id() != mine and await client.get("gl:a") == b"42"
    print("did reconnect")

    await client.flushdb()
    assert await client.dbsize() == 0
    await client.close()
    await other.close()
    print("ok")


asyncio.run(main())
