"""coredis: asyncio, structured concurrency, RESP3.

    coredis_client.py PORT DATABASE
"""

import sys

import anyio
import coredis

port, db = int(sys.argv[1]), int(sys.argv[2])


def connect():
    return coredis.Redis(host="127.0.0.1", port=port, db=db, decode_responses=True)


async def main():
    async with connect() as client, connect() as other:
        await client.flushdb()
        print("version", coredis.__version__)
        assert await client.set("co:a", "1") and await client.incrby("co:a", 41) == 42
        assert await client.hset("co:h", {"f": "1"}) == 1 and await client.hgetall("co:h") == {"f": "1"}
        info = await client.client_info()
        print("protocol", info.get("resp", "?"))
        print("did commands")

        assert await client.mset({f"co:m:{n}": n for n in range(50)})
        assert await client.mget([f"co:m:{n}" for n in range(50)]) == tuple(str(n) for n in range(50))
        assert await client.delete([f"co:m:{n}" for n in range(50)]) == 50
        print("did multi-key")

        async with client.pipeline(transaction=False) as pipe:
            replies = [pipe.incr(f"co:p:{n % 100}") for n in range(1000)]
        assert [await reply for reply in replies] == [n // 100 + 1 for n in range(1000)]
        print("did pipeline")

        a, b = ("co:{t}:a", "co:{t}:b") if db == 0 else ("co:t:a", "co:other:b")
        async with client.pipeline(transaction=True) as pipe:
            first, second = pipe.set(a, "1"), pipe.incr(a)
            third = pipe.rpush(b, ["x"])
        assert (await first, await second, await third) == (True, 2, 1)
        print("did transaction")

        async with client.pubsub(channels=["co:channel"], patterns=["co:pat*"]) as heard:
            while not heard.subscribed:
                await anyio.sleep(0.01)
            assert await client.publish("co:channel", "one") == 1
            assert await client.publish("co:pattern", "two") == 1
            said = []
            with anyio.fail_after(10):
                while len(said) < 2:
                    message = await heard.get_message(timeout=5)
                    if message and message["type"] in ("message", "pmessage"):
                        said.append(message["data"])
            assert said == ["one", "two"], said
        print("did pub/sub")

        async with anyio.create_task_group() as group:
            async def push():
                await anyio.sleep(0.1)
                await other.rpush("co:list", ["job"])
            group.start_soon(push)
            assert list(await client.blpop(["co:list"], timeout=5)) == ["co:list", "job"]
        assert await client.blpop(["co:list"], timeout=1) is None
        print("did blocking pop")

        script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        assert await script(keys=["co:s"], args=[2]) == 2
        await client.script_flush()
        assert await script(keys=["co:s"], args=[3]) == 5
        print("did script")

        assert {key async for key in client.scan_iter("co:p:*", count=10)} == {f"co:p:{n}" for n in range(100)}
        print("did scan")

        big = "x" * 8_000_000
        assert await client.set("co:big", big) and await client.get("co:big") == big
        print("did 8 MB value")

        mine = await client.client_id()
        await other.client_kill(identifier=mine)
        for _ in range(100):
            try:
                if await client.client_id() != mine:
                    break
            except (ConnectionError, coredis.exceptions.ConnectionError):
                pass
            await anyio.sleep(0.02)
        assert await client.client_id() != mine and await client.get("co:a") == "42"
        print("did reconnect")
        await client.flushdb()
        assert await client.dbsize() == 0
    print("ok")


anyio.run(main)
