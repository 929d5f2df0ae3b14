#!/usr/bin/env python3
"""Adds up in Postgres what COUNTER.INCR gathered: what `preshard flush` does, for those who want it in another language.

    flush.py redis://127.0.0.1:6380 postgresql://app@db/app events \
        "UPDATE event e SET n = e.n + d.delta FROM delta d WHERE e.id = d.member" [--once]

Each increment counts once, whoever dies: a batch keeps its id and content until it is acknowledged, and its sequence number is
recorded in the transaction that applies it. The tables are those of `preshard flush --init-sql`.
"""
import sys
import time

import psycopg
import redis
from preshard import Helpers

SOURCE, LEASE_MS, EVERY_MS = "flush.py", 30_000, 1_000
RECORD = """INSERT INTO preshard_flush AS m (source, counter, shard, seq)
    SELECT %s, %s, * FROM unnest(%s::int[], %s::bigint[])
    ON CONFLICT (source, counter, shard) DO UPDATE SET seq = EXCLUDED.seq, at = now() WHERE m.seq < EXCLUDED.seq
    RETURNING shard"""


class Client(Helpers, redis.Redis):
    pass


def apply(db, counter, sql, batches):
    """One transaction. A batch whose shard does not come back has been applied before."""
    batches = sorted((*map(int, id.split("-")), entries) for id, _, entries, _ in batches)
    shards, seqs = [shard for shard, _, _ in batches], [seq for _, seq, _ in batches]
    with db.transaction(), db.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {LEASE_MS * 2 // 5}")
        cursor.execute(RECORD, (SOURCE, counter, shards, seqs))
        new = {shard for shard, in cursor.fetchall()}
        rows = sorted(row for shard, _, entries in batches if shard in new for row in entries.items())
        if rows:
            delta = "WITH delta(member, delta) AS (SELECT * FROM unnest(%s::text[], %s::bigint[])) "
            cursor.execute(delta + sql.replace("%", "%%"), tuple(map(list, zip(*rows))))
        return len(rows)


def main(redis_url, postgres_url, counter, sql, once=""):
    r = Client.from_url(redis_url, decode_responses=True)
    db = None
    while True:
        try:
            db = db or psycopg.connect(postgres_url, autocommit=True)
            batches = list(r.counter_take(counter, lease_ms=LEASE_MS, every_ms=0 if once else EVERY_MS))
            if batches:
                print(f"{counter}: {apply(db, counter, sql, batches)} members", flush=True)
                # After the commit, and the skipped ones too. If it gets lost: they come again, and are skipped.
                r.execute_command("COUNTER.ACK", counter, *(id for id, *_ in batches))
                continue
        except (psycopg.Error, redis.RedisError) as error:
            # Nothing is known about the last transaction: its batches come again after their lease, and the record knows.
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            db = db.close() if db else None
            if once:
                return 1
        if once:
            return 0
        time.sleep(EVERY_MS / 4000)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
