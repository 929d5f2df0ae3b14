"""redis-py's registered scripts in pipelines, transactions, watched transactions and a lock: nothing is called alone before."""

import sys

import redis

port, key = int(sys.argv[1]), sys.argv[2]

with redis.Redis(port=port, decode_responses=True) as client:
    client.delete(key)
    double = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1] * 2)")
    for transaction in (False, True):
        with client.pipeline(transaction=transaction) as pipe:
            pipe.set(key, "1")
            double(keys=[key], args=[2], client=pipe)
            double(keys=[key], args=[3], client=pipe)
            assert pipe.execute() == [True, 5, 11]
    with client.pipeline() as pipe:
        pipe.watch(key)
        pipe.multi()
        double(keys=[key], args=[1], client=pipe)
        assert pipe.execute() == [13]
    with client.lock(f"{{{key}}}:lock", timeout=10) as lock:
        assert lock.owned() and lock.extend(5)
    print("ok", double.sha)
