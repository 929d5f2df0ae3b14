"""redis-py's RedisCluster, no option changed: it finds one node with every slot, and works as with a Redis Cluster."""

import sys

import redis
from redis.cluster import RedisCluster
from redis.exceptions import RedisClusterException

port = int(sys.argv[1])


def next_of(listener, kind):
    for _ in range(20):
        message = listener.get_sharded_message(timeout=1.0)
        if message is not None and message["type"] == kind:
            return message
    raise AssertionError(f"no {kind} came")


for options in ({}, {"protocol": 2}, {"read_from_replicas": True}):
    with RedisCluster(host="127.0.0.1", port=port, decode_responses=True, **options) as client:
        nodes = client.get_nodes()
        assert [(node.host, node.port, node.server_type) for node in nodes] == [("127.0.0.1", port, "primary")], nodes
        assert client.cluster_info()["cluster_state"] == "ok"
        assert client.cluster_keyslot("pc:a") == client.keyslot("pc:a")
        (known,) = client.cluster_nodes().values()
        assert known["slots"] == [["0", "16383"]] and known["connected"], known
        assert client.cluster_links(nodes[0]) == []

        keys = [f"pc:{number}" for number in range(100)]
        for number, key in enumerate(keys):
            assert client.set(key, number)
        assert client.mget_nonatomic(keys) == [str(number) for number in range(100)]
        assert client.dbsize() == 100
        assert sorted(client.scan_iter("pc:*", count=1000)) == sorted(keys)
        with client.pipeline() as pipeline:
            for key in keys:
                pipeline.incr(key)
            assert pipeline.execute() == list(range(1, 101))
        with client.pipeline(transaction=True) as transaction:
            assert transaction.set("{pc}:a", 1).incr("{pc}:b").execute() == ["OK", 1]
        assert client.eval("return redis.call('GET', KEYS[1])", 1, "{pc}:a") == "1"
        assert client.register_script("return KEYS[2]")(keys=["{pc}:a", "{pc}:b"]) == "{pc}:b"
        try:
            client.rename("pc:1", "pc:2")
            raise AssertionError("redis-py refuses commands over several slots itself")
        except RedisClusterException:
            pass
        assert client.blpop("pc:list", timeout=0.05) is None
        assert client.delete(*keys, "{pc}:a", "{pc}:b") == 102

        listener = client.pubsub()
        listener.ssubscribe("pc:shard")
        next_of(listener, "ssubscribe")
        assert client.spublish("pc:shard", "hello") == 1
        assert next_of(listener, "smessage")["data"] == "hello"
        listener.sunsubscribe("pc:shard")
        next_of(listener, "sunsubscribe")
        listener.subscribe("pc:news")
        for _ in range(20):
            message = listener.get_message(timeout=1.0)
            if message is not None and message["type"] == "subscribe":
                break
        assert client.publish("pc:news", "hello") == 1
        assert listener.get_message(timeout=5.0)["data"] == "hello"
        listener.close()

# A client that is not in cluster mode has the pinned databases, as ever.
with redis.Redis(port=port, db=2, decode_responses=True) as client:
    assert client.set("pc:pinned", 1) and client.rename("pc:pinned", "pc:other")
    assert client.delete("pc:other") == 1
print("ok")
