"""A small social application on preshard: what its requests send, and what it reads back.

Events are counted in preshard and added up in Postgres; posts go into the timelines of those who follow, and are read page by page.
"""
import time

FOLLOWERS = {"ada": ["bob", "cyd", "dan"], "bob": ["ada", "cyd"]}
KEEP = 5  # items of a timeline


def see(r, page):
    """Somebody looks at a page: one increment, no row is touched."""
    r.counter_incr("views", page)


def post(r, author, number):
    """A post goes to all who follow its author, in one command."""
    feeds = [f"feed:{name}" for name in FOLLOWERS[author]]
    score = int(time.time() * 1000) + number
    reply = r.execute_command(
        "TIMELINE.FANOUT", len(feeds), *feeds, "MAXLEN", KEEP, score, f"{author}:{number}"
    )
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2])
    return dict(pairs)


def run(r, db):
    pages = {"home": 500, "about": 120, "jobs": 3}
    for page, views in pages.items():
        for _ in range(views):
            see(r, page)
    print(f"counted: {sum(pages.values())} views of {len(pages)} pages, each by one COUNTER.INCR")
    deadline = time.monotonic() + 60
    while dict(found := db.execute("SELECT page, views FROM page_view ORDER BY page").fetchall()) != pages:
        assert time.monotonic() < deadline, f"Postgres has {found} in the end"
        time.sleep(0.05)
    statements = db.execute("SELECT sum(updates) FROM page_view").fetchone()[0]
    print(f"in Postgres: {dict(found)}, by {statements} updates of rows instead of {sum(pages.values())}")
    for number in range(8):
        tally = post(r, "ada", number)
        assert tally["added"] == 3 and not tally["failed"], tally
    post(r, "bob", 8)
    print("posted: 8 posts of ada to 3 timelines each, 1 of bob to 2, each by one TIMELINE.FANOUT")
    for number, items in enumerate(r.timeline_pages("feed:cyd", count=2), 1):
        print(f"cyd's feed, page {number}: {' '.join(items)}")
    print(f"that is all of the newest {KEEP}; what is older is read from the database")
