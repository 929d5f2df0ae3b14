"""preshard's helper commands for redis-py: a mixin, in RESP2 and RESP3.

    class Client(Helpers, redis.Redis): pass
    r = Client(port=6380); r.counter_incr("events", 42); page = r.timeline_pages("feed:7")
"""


class Helpers:
    def counter_incr(self, counter, member, delta=1):
        return self.execute_command("COUNTER.INCR", counter, member, delta)

    def counter_take(self, counter, count=1000, lease_ms=30_000, every_ms=0):
        """Batches as (id, attempt, {member: delta}, previous sequence number)."""
        reply = self.execute_command("COUNTER.TAKE", counter, "COUNT", count, "LEASE", lease_ms, "EVERY", every_ms)
        for batch in reply:
            if isinstance(batch, dict):
                batch = {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}
                yield batch["id"], batch["attempt"], batch["entries"], int(batch["prev"])
            else:
                id, attempt, flat, prev = batch
                yield id, int(attempt), dict(zip(flat[::2], map(int, flat[1::2]))), int(prev)

    def timeline_pages(self, key, count=20, before=None):
        """Page after page, newest first; ends where the timeline does."""
        while True:
            where = ("BEFORE", before) if before else ()
            before, items = self.execute_command("TIMELINE.RANGE", key, *where, "COUNT", count)
            yield items
            if before is None:
                return
