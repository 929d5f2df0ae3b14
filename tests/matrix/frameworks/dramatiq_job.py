"""Dramatiq: a worker process, results, retries, delay, a rate limiter's mutex.

    dramatiq_job.py PORT DATABASE
"""

import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("MATRIX_ADDRESS", " ".join(sys.argv[-2:]))
port, db = map(int, os.environ["MATRIX_ADDRESS"].split())

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.rate_limits.backends import RedisBackend as LimitBackend
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(host="127.0.0.1", port=port, db=db)
broker.add_middleware(Results(backend=RedisBackend(client=redis.Redis(port=port, db=db))))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def add(a, b):
    return a + b


@dramatiq.actor(store_results=True, max_retries=5, min_backoff=50, max_backoff=100)
def third_time():
    if redis.Redis(port=port, db=db).incr("dramatiq-tries") < 3:
        raise ValueError("on purpose")
    return "third"


def work():
    print("version", dramatiq.__version__)
    messages = [add.send(n, n) for n in range(50)]
    assert [message.get_result(block=True, timeout=30_000) for message in messages] == [2 * n for n in range(50)]
    print("did jobs and results")
    assert third_time.send().get_result(block=True, timeout=30_000) == "third"
    print("did retry")
    start = time.monotonic()
    message = add.send_with_options(args=(1, 2), delay=1000)
    assert message.get_result(block=True, timeout=30_000) == 3 and time.monotonic() - start >= 0.9
    print("did delay")
    mutex = ConcurrentRateLimiter(LimitBackend(client=redis.Redis(port=port, db=db)), "mutex", limit=1)
    with mutex.acquire():
        with mutex.acquire(raise_on_failure=False) as second:
            assert not second
    with mutex.acquire(raise_on_failure=False) as again:
        assert again
    print("did lock")


if __name__ == "__main__":
    redis.Redis(port=port, db=db).flushdb()
    worker = subprocess.Popen([sys.executable, "-m", "dramatiq", "dramatiq_job", "--processes", "1", "--threads", "2"],
                              cwd=Path(__file__).parent, stderr=subprocess.DEVNULL)
    try:
        work()
    finally:
        worker.terminate()
        worker.wait(20)
    broker.flush_all()
    redis.Redis(port=port, db=db).flushdb()
    print("ok")
