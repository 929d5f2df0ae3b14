"""channels_redis: a message to a channel, to a group, capacity. Two layers stand for two processes.

    channels_layers.py LAYER PORT DATABASE       LAYER: core or pubsub
"""

import asyncio
import sys
from importlib.metadata import version

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

kind, port, db = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def layer():
    url = f"redis://127.0.0.1:{port}/{db}"
    if kind == "pubsub":
        return RedisPubSubChannelLayer(hosts=[url], prefix="channels")
    return RedisChannelLayer(hosts=[url], prefix="{channels}" if db == 0 else "channels")


async def main():
    print("version", version("channels_redis"))
    one, two = layer(), layer()
    mine = await one.new_channel()
    waiting = asyncio.create_task(asyncio.wait_for(one.receive(mine), 10))
    await asyncio.sleep(0.1)
    await two.send(mine, {"type": "hello", "n": 1})
    assert await waiting == {"type": "hello", "n": 1}
    print("did channel")

    names = [await one.new_channel(), await two.new_channel()]
    for owner, name in zip((one, two), names):
        await owner.group_add("group", name)
    receivers = [asyncio.create_task(asyncio.wait_for(owner.receive(name), 10)) for owner, name in zip((one, two), names)]
    await asyncio.sleep(0.2)
    await one.group_send("group", {"type": "all"})
    assert await asyncio.gather(*receivers) == [{"type": "all"}] * 2
    await two.group_discard("group", names[1])
    print("did group")

    for n in range(50):
        await two.send(names[0], {"type": "n", "n": n})
    assert [(await asyncio.wait_for(one.receive(names[0]), 10))["n"] for _ in range(50)] == list(range(50))
    print("did order")
    await one.flush()
    if kind == "core":
        await one.close_pools()
        await two.close_pools()
    print("ok")


asyncio.run(main())
