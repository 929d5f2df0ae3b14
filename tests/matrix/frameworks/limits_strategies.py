"""limits: fixed window, moving window and sliding window counters, each a script over one key or keys that share a tag.

    limits_strategies.py PORT DATABASE
"""

import sys
from importlib.metadata import version

from limits import parse
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

port, db = int(sys.argv[1]), int(sys.argv[2])
print("version", version("limits"))
storage = storage_from_string(f"redis://127.0.0.1:{port}/{db}")
for name, strategy in (("fixed window", FixedWindowRateLimiter), ("moving window", MovingWindowRateLimiter),
                       ("sliding window", SlidingWindowCounterRateLimiter)):
    limiter, limit = strategy(storage), parse("3/hour")
    for user in (f"{name}-{n}" for n in range(10)):
        assert [limiter.hit(limit, user) for _ in range(4)] == [True, True, True, False], name
        assert limiter.get_window_stats(limit, user).remaining == 0
        limiter.clear(limit, user)
        assert limiter.test(limit, user)
    print("did", name)
assert storage.check()
storage.reset()
print("did reset")
print("ok")
