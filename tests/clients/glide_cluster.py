"""valkey-glide's cluster client: keys over all slots, transactions, scripts, sharded publish and subscribe."""

import asyncio
import sys

from glide import (
    AdvancedGlideClusterClientConfiguration,
    ClusterBatch,
    GlideClusterClient,
    GlideClusterClientConfiguration,
    NodeAddress,
    ProtocolVersion,
    Script,
)

port = int(sys.argv[1])
Modes = GlideClusterClientConfiguration.PubSubChannelModes
# By default glide gives up after a quarter of a second; a busy machine takes longer.
PATIENCE_MS = 20_000


async def connect(protocol, subscriptions=None):
    return await GlideClusterClient.create(
        GlideClusterClientConfiguration(
            [NodeAddress("127.0.0.1", port)],
            protocol=protocol,
            pubsub_subscriptions=subscriptions,
            request_timeout=PATIENCE_MS,
            advanced_config=AdvancedGlideClusterClientConfiguration(connection_timeout=PATIENCE_MS),
        )
    )


async def work(protocol):
    client = await connect(protocol)
    keys = [f"gl:{number}" for number in range(100)]
    await asyncio.gather(*(client.set(key, str(number)) for number, key in enumerate(keys)))
    assert await client.mget(keys) == [str(number).encode() for number in range(100)]
    assert await client.dbsize() == 100
    batch = ClusterBatch(is_atomic=True).set("{gl}:a", "1").incr("{gl}:a")
    assert await client.exec(batch, raise_on_error=True) == ["OK", 2]
    assert await client.invoke_script(Script("return redis.call('GET', KEYS[1])"), keys=["{gl}:a"]) == b"2"
    assert await client.delete(keys + ["{gl}:a"]) == 101
    await client.close()


async def listen():
    subscriptions = GlideClusterClientConfiguration.PubSubSubscriptions(
        channels_and_patterns={Modes.Exact: {"gl:news"}, Modes.Sharded: {"gl:shard"}}, callback=None, context=None
    )
    listener = await connect(ProtocolVersion.RESP3, subscriptions)
    client = await connect(ProtocolVersion.RESP3)
    # It subscribes in the background.
    for sharded, channel in ((False, "gl:news"), (True, "gl:shard")):
        while await client.publish("hello", channel, sharded) == 0:
            await asyncio.sleep(0.01)
        message = await asyncio.wait_for(listener.get_pubsub_message(), 10)
        assert (message.channel, message.message) == (channel.encode(), b"hello"), message
    await listener.close()
    await client.close()


async def main():
    for protocol in (ProtocolVersion.RESP3, ProtocolVersion.RESP2):
        await work(protocol)
    await listen()
    print("ok")


asyncio.run(main())
