"""Huey: a consumer process, results, retries, delay, locks, a pipeline of tasks. Works on the sharded database as it is.

    huey_job.py PORT DATABASE
"""

import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("MATRIX_ADDRESS", " ".join(sys.argv[-2:]))
port, db = map(int, os.environ["MATRIX_ADDRESS"].split())

import huey as library
import redis
from huey import RedisHuey
from huey.exceptions import TaskLockedException

queue = RedisHuey("matrix", host="127.0.0.1", port=port, db=db)


@queue.task()
def add(a, b):
    return a + b


@queue.task(retries=5, retry_delay=0)
def third_time():
    if redis.Redis(port=port, db=db).incr("huey-tries") < 3:
        raise ValueError("on purpose")
    return "third"


def work():
    print("version", library.__version__)
    results = [add(n, n) for n in range(20)]
    assert [result.get(blocking=True, timeout=30) for result in results] == [2 * n for n in range(20)]
    print("did jobs and results")
    task = third_time()
    end = time.monotonic() + 30
    while True:
        try:
            assert task.get(blocking=True, timeout=10) == "third"
            break
        except library.exceptions.TaskException:
            assert time.monotonic() < end
            task.reset()
    print("did retry")
    start = time.monotonic()
    assert add.schedule((1, 2), delay=1).get(blocking=True, timeout=30) == 3 and time.monotonic() - start >= 0.9
    print("did delay")
    chain = add.s(1, 1).then(add, 3)
    assert queue.enqueue(chain).get(blocking=True, timeout=30) == [2, 5]
    print("did chain")
    with queue.lock_task("one"):
        try:
            with queue.lock_task("one"):
                raise AssertionError("locked twice")
        except TaskLockedException:
            pass
    print("did lock")


def main():
    redis.Redis(port=port, db=db).flushdb()
    worker = subprocess.Popen([sys.executable, "-m", "huey.bin.huey_consumer", "huey_job.queue", "-w", "2", "-q"],
                              cwd=Path(__file__).parent, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)})
    try:
        work()
    finally:
        worker.terminate()
        worker.wait(20)
    redis.Redis(port=port, db=db).flushdb()
    print("ok")


if __name__ == "__main__":
    import huey_job  # by its name, which is part of the names of its tasks

    huey_job.main()
