#!/usr/bin/env python3
"""The matrix: every client library and framework of entries.py through a real preshard in front of two real servers.

    entries.py ─▶ environments.py (one folder each below target/matrix) ─▶ run each on database 0 and on a pinned one
                    └─▶ results.json ─▶ report.py ─▶ docs/CLIENTS.md

    run.py                      everything, and record the results
    run.py --only NAME …        the entries whose names contain one of these words, recorded with --record only
    run.py --prepare            installs and builds what the entries need, and runs nothing
    run.py --skip-servers       everything but the integration tests on every server of servers.py (`--only server` for them)
    run.py --list               the names

Each entry has two nodes and a proxy of its own, so that none can disturb another; a failing one does not stop the rest.
Exit status: 0 as expected, 1 something failed, 2 something is missing.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import environments
import report
import servers
import suite
from entries import ENTRIES
from stand import ROOT, Nodes, Proxy, Wire, die_with_parent

PINNED_DATABASE = 5
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
LOGS = ROOT / "target" / "matrix" / "logs"


def say(text):
    print(f"matrix: {text}", flush=True)


class Spy(threading.Thread):
    """Looks into preshard's CLIENT LIST while an entry runs: who is connected, and in which protocol."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.over, self.protocols = port, threading.Event(), set()

    def run(self):
        with Wire(self.port) as wire:
            mine = str(wire.call("CLIENT", "ID"))
            while not self.over.wait(0.05):
                for line in wire.call("CLIENT", "LIST").splitlines():
                    fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
                    if fields.get("id") != mine and fields.get("cmd") not in (None, "NULL", "hello"):
                        self.protocols.add(fields.get("resp", "?"))


def run_program(command, env, seconds, log):
    """Runs it with a limit; kills all that it started. Returns its lines and what was wrong, or None."""
    with open(log, "wb") as out:
        child = subprocess.Popen(command, env=env, cwd=HERE / "frameworks", stdin=subprocess.DEVNULL, stdout=out,
                                 stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=die_with_parent)
        try:
            status = child.wait(seconds)
            wrong = None if status == 0 else f"ended with status {status}"
        except subprocess.TimeoutExpired:
            wrong = f"still running after {seconds} s"
        finally:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.wait()
    lines = log.read_text(errors="replace").splitlines()
    if wrong is None and "ok" not in lines:
        wrong = "ended without its 'ok'"
    return lines, wrong


def log_of(entry, database):
    return LOGS / f"{environments.slug(entry.name)}-{'pinned' if database else 'sharded'}.log"


def run_on(entry, command, env, database, program):
    """One entry on one database: what is recorded of it, and a text that says what failed."""
    log = log_of(entry, database)
    with Nodes(2) as nodes, Proxy(program, nodes) as proxy:
        spy = Spy(proxy.port)
        spy.start()
        lines, wrong = run_program([*command, str(proxy.port), str(database)], env, entry.seconds, log)
        spy.over.set()
        spy.join(10)
        complaints = proxy.complaints()
        with log.open("a") as more:
            more.writelines(f"preshard: {line}\n" for line in proxy.lines)
        server = nodes.version()
    told = {word: [line.split(" ", 1)[1] for line in lines if line.startswith(word + " ")] for word in ("did", "note", "version", "protocol")}
    if wrong is None and complaints:
        wrong = f"preshard complained: {complaints[0]}"
    # What it says of itself wins; what was seen is the answer for frameworks.
    protocols = set(told["protocol"]) or spy.protocols
    result = {"outcome": "failed" if wrong else "ok", "did": told["did"], "notes": told["note"]}
    if wrong:
        result["error"] = wrong
    return result, told["version"], sorted(protocols), server, wrong and f"{wrong}; see {log.relative_to(ROOT)}"


def run_entry(entry, program, date):
    """The record of an entry, and whether it is as it should be."""
    start = time.monotonic()
    record = {"kind": entry.kind, "date": date}
    try:
        command, env, version = environments.prepare(entry)
        versions, protocols, failed = [], set(), []
        for database, name in ((0, "sharded"), (PINNED_DATABASE, "pinned")):
            record[name], told, seen, record["server"], wrong = run_on(entry, command, env, database, program)
            versions += told
            protocols.update(seen)
            if database == 0 and entry.refused:
                # It must fail, and tell its user what to do.
                aloud = wrong and "pinned database" in log_of(entry, database).read_text(errors="replace")
                wrong = None if aloud else f"{entry.refused}: and yet no refusal names the pinned databases"
                record[name] = {"outcome": "refused" if aloud else "failed", "why": entry.refused, "error": wrong}
            elif database == 0:
                record[name]["with"] = entry.sharded
            if wrong:
                failed.append(f"{name}: {wrong}")
        record["version"] = version or (versions or ["?"])[0]
        record["protocol"] = ", ".join(f"RESP{number}" for number in sorted(protocols)) or "?"
    except environments.Missing as missing:
        say(f"{entry.name}: not run: {missing}")
        return None, not missing.expected
    except Exception as error:  # an entry must not stop the others
        record, failed = None, [repr(error)]
    seconds = time.monotonic() - start
    say(f"{'FAILED' if failed else 'ok    '} {entry.name} ({seconds:.0f} s){'' if not failed else ': ' + '; '.join(failed)}")
    return record, bool(failed)


def chosen(words):
    return [entry for entry in ENTRIES if not words or any(word.lower() in entry.name.lower() for word in words)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--record", action="store_true", help="record the results of --only, too")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--skip-servers", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--jobs", type=int, default=2, choices=(1, 2))
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--preshard", default=target / "release" / "preshard", help="the program under test")
    options = parser.parse_args()
    entries = chosen(options.only)
    wants_suite = not options.only or any(word.lower() in suite.NAME.lower() for word in options.only)
    wants_servers = not options.skip_servers and (not options.only or "server" in options.only)
    if options.list:
        print("\n".join([*(entry.name for entry in ENTRIES), suite.NAME, "server"]))
        return 0
    if not entries and not wants_suite and not wants_servers:
        say(f"no entry is called like {options.only}; see --list")
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    if options.prepare:
        return environments.prepare_all(entries, wants_suite, wants_servers)
    if not shutil.which(str(options.preshard)):
        say(f"{options.preshard} is missing: cargo build --release")
        return 2

    date = datetime.date.today().isoformat()
    results, bad = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"entries": {}}, []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        running = {pool.submit(run_entry, entry, options.preshard, date): entry for entry in entries}
        if wants_suite:
            whole_suite = pool.submit(suite.run, options.preshard, date, LOGS, say)
        for future in concurrent.futures.as_completed(running):
            record, failed = future.result()
            if record:
                results["entries"][running[future].name] = record
            if failed:
                bad.append(running[future].name)
        if wants_suite:
            record, failed = whole_suite.result()
            results["suite"] = record or results.get("suite")
            bad += [suite.NAME] if failed else []
    if wants_servers:
        try:
            record, failed = servers.run(date, LOGS, say, options.only)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            say(f"FAILED servers: {error}")
            record, failed = {}, ["servers"]
        results["servers"] = {**results.get("servers", {}), **record}
        bad += failed
    if not options.only or options.record:
        names = {entry.name for entry in ENTRIES}
        results["entries"] = {name: record for name, record in sorted(results["entries"].items()) if name in names}
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
        report.write()
        say(f"wrote {RESULTS.relative_to(ROOT)} and docs/CLIENTS.md")
    say("all as expected" if not bad else f"FAILED: {', '.join(sorted(bad))}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
