"""Users with redis-py: who gives which password, what each may do, and what the library makes of refusals."""

import sys

import redis

port = int(sys.argv[1])


def connect(**more):
    # A wrong password is a ConnectionError for redis-py, which asks ten times, each a second later.
    once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
    return redis.Redis(port=port, decode_responses=True, retry=once, **more)


def refused(error, act):
    try:
        act()
    except error:
        return
    raise AssertionError("it was not refused")


for protocol in (2, 3):
    app = connect(username="app", password="p1", protocol=protocol)
    assert app.acl_whoami() == "app"
    assert app.set("app:py", "x") and app.get("app:py") == "x"
    for act in (
        lambda: app.get("other"),
        lambda: app.mget("app:py", "other"),
        lambda: app.config_get("*"),
        lambda: app.publish("other", "m"),
        lambda: app.eval("return 1", 1, "app:py"),
        lambda: app.acl_list(),
    ):
        refused(redis.exceptions.NoPermissionError, act)
    pipe = app.pipeline(transaction=True)
    pipe.set("app:py", "y").get("other")
    refused(redis.exceptions.NoPermissionError, pipe.execute)
    assert app.get("app:py") == "x"

    root = connect(username="root", password="p3", protocol=protocol)
    assert root.acl_users() == ["app", "default", "eye", "root"], root.acl_users()
    user = root.acl_getuser("app")
    assert user["enabled"] and "~app:*" in str(user["keys"]), user
    assert root.execute_command("PRESHARD", "SHARD", "OF", "app:py")

refused(redis.exceptions.AuthenticationError, connect(username="app", password="no").ping)
refused(redis.exceptions.AuthenticationError, connect(password="p1").ping)
print("ok")
