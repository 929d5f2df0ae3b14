#!/usr/bin/env python3
"""results.json ─▶ docs/CLIENTS.md. Nothing on that page is written by hand.

    report.py              writes the page
    report.py --check      status 1 if the page is not what the results make
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results.json"
PAGE = ROOT / "docs" / "CLIENTS.md"

HEAD = """# Clients

Made by `make matrix` out of `tests/matrix/results.json`: each library and framework below, in the exact version named, with no
option changed but those in its row, through a real preshard (1,024 shards, 15 pinned databases) in front of two real
servers. Do not edit this page; run `make matrix` ([TESTING.md](TESTING.md) says what it does).

{run}

**Database 0** is the sharded keyspace, a **pinned database** is `SELECT 1` to `15`: one whole shard, where every command of
several keys works ([DIFFERENCES.md](DIFFERENCES.md)). A job queue with a database number in its URL needs nothing else.
"""


def cell(text):
    return text.replace("|", "\\|")


def outcome(part):
    if part["outcome"] == "ok":
        option = part.get("with", "as it is")
        return "works" if option == "as it is" else f"works with {option}"
    if part["outcome"] == "refused":
        return f"refused aloud ({part['why']}): use a pinned database"
    return f"**fails**: {part['error']}"


def did(record):
    """What worked on both databases is said once."""
    parts = [record[name]["did"] for name in ("sharded", "pinned") if "did" in record[name]]
    everywhere = [what for what in parts[-1] if all(what in part for part in parts)]
    text = ", ".join(everywhere)
    notes = dict.fromkeys(note for name in ("sharded", "pinned") for note in record[name].get("notes", []))
    return text + "".join(f"; {note}" for note in notes)


def table(entries, kind, what):
    rows = [f"| {what} | version | protocol | database 0 | pinned database | what was done |", "|---|---|---|---|---|---|"]
    for name, record in sorted(entries.items(), key=lambda item: item[0].lower()):
        if record["kind"] == kind:
            cells = [name, record["version"], record["protocol"], outcome(record["sharded"]), outcome(record["pinned"]), did(record)]
            rows.append("| " + " | ".join(map(cell, cells)) + " |")
    return "\n".join(rows)


def runs(entries):
    dates = sorted({record["date"] for record in entries.values()})
    servers = sorted({record["server"] for record in entries.values() if "server" in record})
    when = dates[0] if len(dates) == 1 else f"between {dates[0]} and {dates[-1]}"
    return f"Run {when}, in front of {' and '.join(servers)}."


def suite_text(suite):
    if not suite:
        return ""
    lines = [
        "\n## redis-py's own tests\n",
        f"The tests that redis-py {suite['version']} ships ({', '.join(f'`{name}`' for name in suite['files'])}, synchronous and asyncio), "
        f"once against {suite['server']} itself and once through preshard, on a pinned database ({suite['date']}): "
        f"**{suite['same']} of {suite['passed']}** tests that pass on the server pass through preshard. "
        f"The other {len(suite['differences'])} are listed with their reasons in `tests/matrix/redis_py_expected.txt`:\n",
        "| tests | reason |", "|---|---|",
    ]
    reasons = {}
    for reason in suite["differences"].values():
        reasons[reason] = reasons.get(reason, 0) + 1
    lines += [f"| {count} | {cell(reason)} |" for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))]
    return "\n".join(lines) + "\n"


def servers_text(servers):
    if not servers:
        return ""
    lines = ["\n## Servers\n", "The integration tests of preshard itself (`cargo test --test integration`) with nodes of each server:\n",
             "| server | from | tests | date |", "|---|---|---|---|"]
    for name, record in sorted(servers.items()):
        tests = f"{record['passed']} passed" + (f", **{record['failed']} failed**" if record["failed"] else "")
        tests += f", {record['skipped']} skipped" if record["skipped"] else ""
        if record["left_out"]:
            tests += f"; some are left out, since it {'; '.join(record['left_out'])}"
        lines.append(f"| {name} | {record['from']} | {tests} | {record['date']} |")
    return "\n".join(lines) + "\n"


def page():
    results = json.loads(RESULTS.read_text())
    entries = results["entries"]
    text = HEAD.format(run=runs(entries))
    text += "\n## Client libraries\n\n" + table(entries, "client", "library") + "\n"
    text += "\n## Frameworks\n\nEach runs its real job, with worker processes of its own where it has workers.\n\n"
    text += table(entries, "framework", "framework") + "\n"
    return text + suite_text(results.get("suite")) + servers_text(results.get("servers"))


def write():
    PAGE.write_text(page())


def main():
    if "--check" not in sys.argv:
        write()
        return 0
    if PAGE.exists() and PAGE.read_text() == page():
        return 0
    print("docs/CLIENTS.md is not what tests/matrix/results.json makes: run python3 tests/matrix/report.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
