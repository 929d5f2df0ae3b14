"""RQ: a worker process with its scheduler, results, retries, delay, dependencies, pub/sub commands.

    rq_job.py PORT DATABASE
"""

import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import redis
import rq
from rq import Queue, Retry
from rq.job import JobStatus

port, db = int(sys.argv[-2]), int(sys.argv[-1])


def add(a, b):
    return a + b


def third_time(key):
    if redis.Redis(port=port_of(), db=db_of()).incr(key) < 3:
        raise ValueError("on purpose")
    return "third"


def port_of():
    from rq import get_current_job
    return get_current_job().connection.connection_pool.connection_kwargs["port"]


def db_of():
    from rq import get_current_job
    return get_current_job().connection.connection_pool.connection_kwargs["db"]


def finished(job, limit=30):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if job.get_status() in (JobStatus.FINISHED, JobStatus.FAILED):
            return job
        time.sleep(0.05)
    raise AssertionError(f"{job} is still {job.get_status()}")


def work(connection):
    print("version", rq.__version__)
    queue = Queue("default", connection=connection)
    jobs = [queue.enqueue("rq_job.add", n, n) for n in range(5)]
    assert [finished(job).return_value() for job in jobs] == [0, 2, 4, 6, 8]
    print("did jobs and results")
    job = queue.enqueue("rq_job.third_time", "rq:tries", retry=Retry(max=5, interval=1))
    assert finished(job, 60).return_value() == "third"
    print("did retry")
    start = time.monotonic()
    later = queue.enqueue_in(timedelta(seconds=1), "rq_job.add", 1, 2)
    assert finished(later).return_value() == 3 and time.monotonic() - start >= 0.9
    print("did delay")
    first = queue.enqueue("rq_job.add", 1, 1)
    second = queue.enqueue("rq_job.add", 2, 2, depends_on=first)
    assert finished(second).return_value() == 4
    print("did dependency")
    assert rq.Worker.all(connection=connection), "the worker has not registered itself"
    from rq.command import send_shutdown_command
    for worker in rq.Worker.all(connection=connection):
        send_shutdown_command(connection, worker.name)
    print("did worker commands")


if __name__ == "__main__":
    connection = redis.Redis(port=port, db=db)
    connection.flushdb()
    code = ("import redis, rq, sys; c = redis.Redis(port=int(sys.argv[1]), db=int(sys.argv[2])); "
            "rq.Worker(['default'], connection=c).work(with_scheduler=True, logging_level='WARNING')")
    worker = subprocess.Popen([sys.executable, "-c", code, str(port), str(db)], cwd=Path(__file__).parent)
    try:
        work(connection)
        assert worker.wait(30) == 0, "the worker did not end when told to by a message"
    finally:
        if worker.poll() is None:
            worker.terminate()
            worker.wait(20)
    connection.flushdb()
    print("ok")
