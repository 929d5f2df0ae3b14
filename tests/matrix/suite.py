"""redis-py's own tests, as its source distribution ships them: through preshard on a pinned database, and on a plain server.

    plain server ──▶ outcomes ─┐
                               ├─▶ what the plain server passes and preshard does not ─▶ must be in redis_py_expected.txt
    preshard ─────▶ outcomes ──┘

What the plain server itself fails (too old, needs a cluster, needs DEBUG) is no difference.
"""

import fnmatch
import os
import shutil
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import environments
from stand import Nodes, Proxy

NAME = "redis-py's own tests"
VERSION = "8.1.0"
PINS = (f"redis=={VERSION}", "pytest==9.2.0", "pytest-asyncio==1.5.0", "pytest-timeout==2.4.0")
FILES = ("commands", "pipeline", "pubsub", "scripting", "lock", "encoding", "connection_pool")
DATABASE = 9
EXPECTED = Path(__file__).resolve().parent / "redis_py_expected.txt"
SECONDS = 900


def prepare():
    """The interpreter and the folder of the unpacked source distribution."""
    program = environments.python(NAME, PINS)
    folder = environments.TARGET / "python" / f"redis-{VERSION}"
    if not folder.exists():
        download = environments.TARGET / "python" / "download"
        print(f"matrix: fetching the source distribution of redis {VERSION}", flush=True)
        environments.run([program, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:",
                          "--dest", download, f"redis=={VERSION}"])
        with tarfile.open(download / f"redis-{VERSION}.tar.gz") as archive:
            archive.extractall(folder.parent)
        # The tests must meet the installed package, as users do, and not the sources beside them.
        shutil.rmtree(folder / "redis")
    return program, folder


def run_tests(program, folder, port, log):
    """{test: passed, failed or skipped} of the run against a port."""
    xml = log.with_suffix(".xml")
    xml.unlink(missing_ok=True)
    files = [f"tests/{part}test_{name}.py" for part in ("", "test_asyncio/") for name in FILES]
    command = [program, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "--tb=line", "-o", "addopts=", "-o", "timeout=60",
               "-o", "timeout_func_only=true",
               "--redis-url", f"redis://127.0.0.1:{port}/{DATABASE}", f"--junitxml={xml}", *files]
    with open(log, "wb") as out:
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, timeout=SECONDS,
                              env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    if done.returncode not in (0, 1):  # all passed, or some failed; anything else is no result
        raise RuntimeError(f"pytest ended with status {done.returncode}; see {log}")
    found = {}
    for case in ElementTree.parse(xml).iter("testcase"):
        name = f"{case.get('classname').removeprefix('tests.')}::{case.get('name')}"
        kinds = {part.tag for part in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        # A test whose clean-up fails is listed twice.
        found[name] = "failed" if "failed" in (outcome, found.get(name)) else outcome
    return found


def expected():
    """[(pattern, reason)] of the list; a reason stands above its patterns."""
    rows, reason = [], None
    for line in EXPECTED.read_text().splitlines():
        if line.startswith("== "):
            reason = line[3:]
        elif line.strip() and not line.startswith("#"):
            rows.append((line.strip(), reason))
    return rows


def run(preshard, date, logs, say):
    """What is recorded, and whether something failed."""
    start = time.monotonic()
    try:
        program, folder = prepare()
        with Nodes(1, databases=16) as plain, Nodes(2) as nodes, Proxy(preshard, nodes) as proxy, ThreadPoolExecutor(2) as both:
            direct = both.submit(run_tests, program, folder, plain.ports[0], logs / "redis-py-plain.log")
            through = both.submit(run_tests, program, folder, proxy.port, logs / "redis-py-preshard.log")
            direct, through = direct.result(), through.result()
            server, complaints = nodes.version(), proxy.complaints()
    except Exception as error:  # as an entry that fails: the others go on
        say(f"FAILED {NAME}: {error}")
        return None, True
    passed = {name for name, outcome in direct.items() if outcome == "passed"}
    different = sorted(name for name in passed if through.get(name) != "passed")
    rows = expected()
    reasons = {name: next((reason for pattern, reason in rows if fnmatch.fnmatchcase(name, pattern)), None) for name in different}
    surprises = [name for name, reason in reasons.items() if reason is None]
    for pattern, _ in rows:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in different):
            say(f"{NAME}: '{pattern}' differs no longer; take it out of {EXPECTED.name}")
    for name in surprises:
        say(f"{NAME}: {name} passes on {server} and is {through.get(name, 'missing')} through preshard")
    for line in complaints:
        say(f"{NAME}: preshard complained: {line}")
    bad = bool(surprises or complaints)
    say(f"{'FAILED' if bad else 'ok    '} {NAME}: {len(passed) - len(different)} of {len(passed)} as on {server}, {len(different)} differ "
        f"({time.monotonic() - start:.0f} s)")
    record = {"date": date, "version": VERSION, "server": server, "files": [f"test_{name}.py" for name in FILES], "passed": len(passed),
              "same": len(passed) - len(different), "differences": {name: reason or "not expected" for name, reason in reasons.items()}}
    return record, bad


if __name__ == "__main__":
    sys.exit("run it with run.py --only redis-py's")
