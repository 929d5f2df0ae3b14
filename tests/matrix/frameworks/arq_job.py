"""arq: a worker process, results, retries, delay, abort.

    arq_job.py PORT DATABASE
"""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("MATRIX_ADDRESS", " ".join(sys.argv[-2:]))
port, db = map(int, os.environ["MATRIX_ADDRESS"].split())

import arq
from arq import Retry, create_pool, func
from arq.connections import RedisSettings

settings = RedisSettings(host="127.0.0.1", port=port, database=db)


async def add(_, a, b):
    return a + b


async def third_time(ctx):
    if ctx["job_try"] < 3:
        raise Retry(defer=0.1)
    return ctx["job_try"]


async def long(_):
    await asyncio.sleep(60)


class WorkerSettings:
    functions = [add, func(third_time, max_tries=5), long]
    redis_settings = settings
    allow_abort_jobs = True
    poll_delay = 0.1
    health_check_interval = 1
    handle_signals = True


async def work():
    print("version", arq.version.VERSION)
    pool = await create_pool(settings)
    await pool.flushdb()
    jobs = [await pool.enqueue_job("add", n, n) for n in range(50)]
    assert [await job.result(timeout=30) for job in jobs] == [2 * n for n in range(50)]
    print("did jobs and results")
    assert await (await pool.enqueue_job("third_time")).result(timeout=30) == 3
    print("did retry")
    start = time.monotonic()
    assert await (await pool.enqueue_job("add", 1, 2, _defer_by=1)).result(timeout=30) == 3 and time.monotonic() - start >= 0.9
    print("did delay")
    assert await pool.enqueue_job("add", 1, 2, _job_id="only", _defer_by=60) is not None
    assert await pool.enqueue_job("add", 1, 2, _job_id="only") is None
    print("did unique job")
    job = await pool.enqueue_job("long")
    while await job.status() != arq.jobs.JobStatus.in_progress:
        await asyncio.sleep(0.05)
    assert await job.abort(timeout=20)
    print("did abort")
    await pool.flushdb()
    await pool.aclose()


if __name__ == "__main__":
    worker = subprocess.Popen([sys.executable, "-m", "arq", "arq_job.WorkerSettings"], cwd=Path(__file__).parent,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asyncio.run(work())
    finally:
        worker.terminate()
        worker.wait(20)
    print("ok")
