"""Django's own Redis cache: single values, many values at once, counters, expiry, clear.

    django_cache.py BACKEND PORT DATABASE        BACKEND: django or django-redis
"""

import sys
import threading

import django
from django.conf import settings

backend, port, db = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
classes = {"django": "django.core.cache.backends.redis.RedisCache", "django-redis": "django_redis.cache.RedisCache"}
settings.configure(CACHES={"default": {"BACKEND": classes[backend], "LOCATION": f"redis://127.0.0.1:{port}/{db}",
                                       # On the sharded database one hash tag holds the cache together.
                                       "KEY_PREFIX": "{cache}" if db == 0 else "cache"}},
                   SESSION_ENGINE="django.contrib.sessions.backends.cache", INSTALLED_APPS=["django.contrib.sessions"])
django.setup()

from django.core.cache import cache

if backend == "django":
    print("version", django.__version__)
else:
    import django_redis

    print("version", ".".join(map(str, django_redis.VERSION)))
cache.clear()
cache.set("a", {"deep": [1, 2]}, timeout=60)
assert cache.get("a") == {"deep": [1, 2]} and cache.get("none") is None
assert cache.add("a", 1) is False and cache.add("b", 1) is True and cache.incr("b", 41) == 42
assert cache.touch("a", 30) and cache.has_key("a") and cache.delete("a") and not cache.delete("a")
print("did values")

many = {f"m{n}": n for n in range(100)}
assert not cache.set_many(many, timeout=60)
assert cache.get_many([*many, "none"]) == many
cache.delete_many(many)
assert cache.get_many(many) == {}
print("did set_many")

big = "x" * 4_000_000
cache.set("big", big)
assert cache.get("big") == big
print("did 4 MB value")

cache.set("short", 1, timeout=1)
assert cache.get_or_set("computed", lambda: 7) == 7
end = threading.Event()
for _ in range(100):
    if cache.get("short") is None:
        break
    end.wait(0.05)
assert cache.get("short") is None
print("did expiry")

from django.contrib.sessions.backends.cache import SessionStore

session = SessionStore()
session["user"] = "Ada"
session.save()
assert SessionStore(session.session_key)["user"] == "Ada"
session.cycle_key()
session.flush()
print("did sessions")

if backend == "django-redis":
    with cache.lock("lock", timeout=5):
        assert not cache.lock("lock", timeout=5).acquire(blocking=False)
    assert cache.lock("lock", timeout=5).acquire(blocking=False)
    print("did lock")
    cache.set_many({f"k{n}": n for n in range(50)})
    assert len(list(cache.iter_keys("k*"))) == 50 and cache.ttl("k1") > 0 and cache.delete_pattern("k*") == 50
    print("did patterns")

cache.clear()
assert cache.get("b") is None
print("ok")
