"""Celery with Redis as broker and result backend: a worker process, results, retries, countdown, groups, chords, inspect.

    celery_job.py PORT DATABASE

On database 0 every key gets the hash tag `{cel}` by the `global_keyprefix` of both transports.
"""

import subprocess
import sys
import time
from pathlib import Path

import celery
from celery import Celery, chord, group

port, db = int(sys.argv[-2]), int(sys.argv[-1])
url = f"redis://127.0.0.1:{port}/{db}"
app = Celery("celery_job", broker=url, backend=url)
app.conf.update(broker_connection_retry_on_startup=True, result_expires=60, worker_hijack_root_logger=False)
if db == 0:
    app.conf.broker_transport_options = {"global_keyprefix": "{cel}"}
    app.conf.result_backend_transport_options = {"global_keyprefix": "{cel}"}


@app.task
def add(a, b):
    return a + b


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=5)
def third_time(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task
def fail():
    raise ValueError("on purpose")


def work():
    print("version", celery.__version__)
    results = [add.delay(n, n) for n in range(50)]
    assert [result.get(timeout=30) for result in results] == [2 * n for n in range(50)]
    print("did jobs and results")
    assert third_time.delay().get(timeout=30) == 2
    print("did retry")
    try:
        fail.delay().get(timeout=30)
        raise AssertionError("a failed task has a result")
    except ValueError:
        pass
    print("did failure")
    start = time.monotonic()
    assert add.apply_async((1, 2), countdown=1).get(timeout=30) == 3 and time.monotonic() - start >= 0.9
    print("did delay")
    assert group(add.s(n, 1) for n in range(10))().get(timeout=30) == list(range(1, 11))
    assert chord((add.s(n, 1) for n in range(10)), total.s())().get(timeout=30) == 55
    print("did group and chord")
    assert app.control.ping(timeout=5, limit=1), "no worker answers the broadcast"
    assert app.control.inspect(timeout=5).stats()
    print("did broadcast and inspect")


if __name__ == "__main__" and "worker" not in sys.argv:
    worker = subprocess.Popen(
        [sys.executable, "-c", "import sys; from celery_job import app; app.worker_main(['worker', '--concurrency=2', '--loglevel=WARNING'])",
         str(port), str(db)],
        cwd=Path(__file__).parent)
    try:
        work()
    finally:
        worker.terminate()
        worker.wait(20)
    app.control.purge()
    print("ok")
