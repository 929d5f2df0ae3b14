"""What the matrix runs: one row for each client library and framework, with the exact versions that are installed.

A row names its program below this folder, which gets the port and the database as its last two arguments and prints

    version 8.1.0          once
    protocol 3             if it can tell; else the runner looks into preshard's CLIENT LIST
    did pipeline           for each thing that worked
    note …                 what readers of docs/CLIENTS.md should know
    ok                     at its end

It must end with status 0. `sharded` says how it runs on database 0. `refused` says why it cannot by its nature: then it must fail there with
preshard's words in its output, which name the pinned databases.
"""

from dataclasses import dataclass

AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Entry:
    name: str
    program: tuple
    kind: str = "client"
    # One of these says what is installed: pip and npm packages into a folder of the entry's own, or Debian packages.
    pip: tuple = ()
    npm: tuple = ()
    apt: tuple = ()
    # On database 0: what has to be set, or why it is not offered.
    sharded: str = AS_IT_IS
    refused: str = ""
    seconds: int = 120


def client(name, *program, **more):
    return Entry(name, program, **more)


def framework(name, *program, **more):
    return Entry(name, program, kind="framework", **more)


SEVERAL_KEYS = "transactions over keys that no option gives a hash tag"

ENTRIES = [
    client("redis-py 8", "clients/redis_py.py", "redis", pip=("redis==8.1.0",)),
    client("redis-py 5", "clients/redis_py.py", "redis", pip=("redis==5.3.1",)),
    client("valkey-py", "clients/redis_py.py", "valkey", pip=("valkey==6.2.0",)),
    client("coredis", "clients/coredis_client.py", pip=("coredis==6.9.0",)),
    client("Valkey GLIDE (Python)", "clients/valkey_glide.py", pip=("valkey-glide==2.5.3",)),
    client("libhiredis (C)", "clients/hiredis.c", apt=("libhiredis-dev",)),
    client("ioredis 6", "clients/ioredis.cjs", "ioredis", npm=("ioredis@6.0.0",)),
    client("ioredis 5", "clients/ioredis.cjs", "ioredis", npm=("ioredis@5.11.0",)),
    client("iovalkey", "clients/ioredis.cjs", "iovalkey", npm=("iovalkey@0.4.0",)),
    client("node-redis 6", "clients/node_redis.cjs", npm=("redis@6.3.1",)),
    client("node-redis 5", "clients/node_redis.cjs", npm=("redis@5.10.0",)),
    client("redis-rs", "rust", "redis-rs", seconds=600),
    client("redis-rs, `?protocol=resp3`", "rust", "redis-rs-3", seconds=600),
    client("fred", "rust", "fred", seconds=600),
    client("redis-rb 4", "clients/redis_rb.rb", apt=("ruby-redis",)),
    client("phpredis", "clients/phpredis.php", apt=("php-cli", "php-redis")),
    client("Predis", "clients/predis.php", apt=("php-cli", "php-predis")),
    client("Redis.pm (Perl)", "clients/redis.pl", apt=("libredis-perl",)),
    client("redis-lua", "clients/redis_lua.lua", apt=("lua5.1", "lua-redis")),
    framework("Celery", "frameworks/celery_job.py", pip=("celery==5.7.0", "redis==8.1.0", "packaging==26.4"),
              sharded="`global_keyprefix: '{cel}'` in `broker_transport_options` and `result_backend_transport_options`"),
    framework("RQ", "frameworks/rq_job.py", pip=("rq==3.0.0", "redis==8.1.0"), refused=SEVERAL_KEYS),
    framework("Dramatiq", "frameworks/dramatiq_job.py", pip=("dramatiq==2.2.1", "redis==8.1.0"),
              refused="a script that declares no keys and uses several"),
    framework("Huey", "frameworks/huey_job.py", pip=("huey==3.5.4", "redis==8.1.0")),
    framework("arq", "frameworks/arq_job.py", pip=("arq==0.28.0", "redis==5.3.1"), refused=SEVERAL_KEYS),
    framework("Django cache", "frameworks/django_cache.py", "django", pip=("django==5.2.19", "redis==8.1.0"),
              sharded="`KEY_PREFIX: '{cache}'`, for `set_many` (`MULTI` over its keys)"),
    framework("django-redis", "frameworks/django_cache.py", "django-redis",
              pip=("django-redis==7.0.0", "django==5.2.19", "redis==8.1.0"),
              sharded="`KEY_PREFIX: '{cache}'`, for `set_many` (`MULTI` over its keys)"),
    framework("channels_redis, core layer", "frameworks/channels_layers.py", "core", pip=("channels_redis==4.3.0", "redis==8.1.0"),
              refused="scripts that declare no keys"),
    framework("channels_redis, pub/sub layer", "frameworks/channels_layers.py", "pubsub", pip=("channels_redis==4.3.0", "redis==8.1.0")),
    framework("limits", "frameworks/limits_strategies.py", pip=("limits==5.8.0", "redis==8.1.0")),
    framework("BullMQ", "frameworks/bullmq.cjs", npm=("bullmq@6.7.0", "ioredis@6.0.0"), sharded="`prefix: '{bull}'`"),
    framework("Bull", "frameworks/bull.cjs", npm=("bull@4.16.5",), sharded="`prefix: '{bull}'`"),
    framework("Bee-Queue", "frameworks/bee_queue.cjs", npm=("bee-queue@2.0.0",), sharded="`prefix: '{bq}'`"),
    framework("Socket.IO Redis adapter", "frameworks/socketio.cjs",
              npm=("@socket.io/redis-adapter@8.3.0", "socket.io@4.8.4", "socket.io-client@4.8.4", "redis@6.3.1")),
    framework("connect-redis", "frameworks/connect_redis.cjs",
              npm=("connect-redis@9.0.0", "express-session@1.19.0", "express@5.1.0", "redis@6.3.1")),
    framework("Keyv", "frameworks/keyv.cjs", npm=("keyv@5.6.0", "@keyv/redis@5.1.6"),
              sharded="a hash tag in `namespace`, for `setMany` (`MULTI` over its keys)"),
    framework("rate-limit-redis", "frameworks/rate_limit.cjs",
              npm=("rate-limit-redis@6.0.1", "express-rate-limit@8.7.4", "express@5.1.0", "redis@6.3.1")),
    framework("redlock", "frameworks/redlock.cjs", npm=("redlock@4.2.0", "ioredis@5.11.0"),
              sharded="a hash tag in the names, for locks over several resources"),
    framework("Sidekiq 6", "frameworks/sidekiq.rb", apt=("ruby-sidekiq",), refused=SEVERAL_KEYS, seconds=180),
]
