"""TIMELINE.* from redis-py, which has no methods for them: execute_command, in RESP2 and RESP3, by name and in a pipeline."""

import sys

import redis

port = int(sys.argv[1])


def tally(reply):
    """A map in RESP3, a flat list in RESP2."""
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2]))


def rows(items):
    """Pairs in RESP3, members and scores in turn in RESP2."""
    if items and isinstance(items[0], list):
        return [(member, float(score)) for member, score in items]
    return [(member, float(score)) for member, score in zip(items[::2], items[1::2])]


def pages(client, key, count):
    cursor = []
    while True:
        cursor, items = client.execute_command("TIMELINE.RANGE", key, *cursor, "COUNT", count)
        yield from items
        if cursor is None:
            return
        cursor = ["BEFORE", cursor]


def work(client):
    client.delete(*(f"feed:{n}" for n in range(300)), "wrong")
    assert client.execute_command("TIMELINE.ADD", "feed:0", "MAXLEN", 3, 1, "a", 2, "b", 3, "c", 4.5, "d") == 4
    assert client.zrevrange("feed:0", 0, -1) == ["d", "c", "b"]
    cursor, items = client.execute_command("TIMELINE.RANGE", "feed:0", "COUNT", 2, "WITHSCORES")
    assert (cursor, rows(items)) == ("3:c", [("d", 4.5), ("c", 3.0)]), (cursor, items)
    assert list(pages(client, "feed:0", 1)) == ["d", "c", "b"]

    client.set("wrong", "x")
    feeds = [f"feed:{n}" for n in range(300)]
    told = tally(client.execute_command("TIMELINE.FANOUT", 301, *feeds, "wrong", "MAXLEN", 2, 9, "post"))
    assert (told["added"], told["unchanged"], told["skipped"]) == (300, 0, 0), told
    [[key, why]] = told["failed"]
    assert key == "wrong" and why.startswith("WRONGTYPE"), told
    told = tally(client.execute_command("TIMELINE.FANOUT", 2, "feed:0", "feed:none", "IFEXISTS", 9, "post"))
    assert (told["unchanged"], told["skipped"], told["failed"]) == (1, 1, []), told

    cursor, items = client.execute_command("TIMELINE.MERGE", 3, "feed:0", "feed:1", "feed:2")
    assert (cursor, items) == (None, ["post", "d"]), (cursor, items)
    try:
        client.execute_command("TIMELINE.MERGE", 2, "feed:0", "wrong")
        raise AssertionError("a hole")
    except redis.ResponseError as error:
        assert str(error).startswith("WRONGTYPE"), error

    pipe = client.pipeline(transaction=False)
    for n in range(50):
        pipe.execute_command("TIMELINE.ADD", f"feed:{n}", "MAXLEN", 2, 10 + n, f"late{n}")
        pipe.execute_command("TIMELINE.RANGE", f"feed:{n}", "COUNT", 1)
    for n, (cursor, items) in enumerate(pipe.execute()[1::2]):
        assert (cursor, items) == (f"{10 + n}:late{n}", [f"late{n}"]), (cursor, items)
    assert client.execute_command("TIMELINE.TRIM", "feed:0", "MINSCORE", 10) == 1


for options in ({}, {"protocol": 2}, {"db": 2}, {"db": 2, "protocol": 2}):
    with redis.Redis(port=port, decode_responses=True, **options) as client:
        work(client)
print("ok")
