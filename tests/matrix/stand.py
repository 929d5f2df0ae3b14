"""Real servers for one entry: nodes in temporary folders on free ports, preshard in front of them, gone at the end.

    with Nodes(2) as nodes, Proxy(nodes) as proxy:
        ... proxy.port ...
"""

import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARDS, PINNED = 1024, 15
DATABASES = SHARDS + PINNED + 1


def die_with_parent():
    """Linux: a server never outlives the runner, however that ends."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (OSError, AttributeError):
        pass  # another system: the context managers end it


def free_port():
    """Below the range of outgoing connections, as the integration tests choose theirs."""
    for _ in range(1000):
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port between 10000 and 32000")


def server_program():
    return os.environ.get("PRESHARD_REDIS_SERVER", "redis-server")


class Wire:
    """A RESP2 client in a few lines: the runner's own eyes, independent of every library under test."""

    def __init__(self, port, timeout=10):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def call(self, *words):
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        return self.reply()

    def reply(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("closed")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            return RuntimeError(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self.file.read(size + 2)[:-2].decode(errors="replace")
        if kind == b"*":
            return None if rest == b"-1" else [self.reply() for _ in range(int(rest))]
        raise RuntimeError(f"unexpected reply {line!r}")


def wait_until_answers(port, child, what):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if child.poll() is not None:
            return False
        try:
            with Wire(port) as wire:
                if wire.call("PING") == "PONG":
                    return True
        except (OSError, RuntimeError):
            pass
        time.sleep(0.02)
    raise RuntimeError(f"{what} on port {port} did not answer within 30 seconds")


class Nodes:
    """`count` servers as an operator sets them up for 1,024 shards and 15 pinned databases."""

    def __init__(self, count, databases=DATABASES, program=None, more=()):
        self.count, self.databases, self.program, self.more = count, databases, program or server_program(), more
        self.children, self.ports = [], []

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="preshard-matrix-")
        try:
            for number in range(self.count):
                self.start(Path(self.folder.name) / f"node-{number + 1}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, folder):
        folder.mkdir()
        for _ in range(5):
            port = free_port()
            child = subprocess.Popen(
                [self.program, "--port", str(port), "--bind", "127.0.0.1", "--daemonize", "no", "--save", "",
                 "--appendonly", "no", "--databases", str(self.databases), "--dir", str(folder), *self.more],
                stdin=subprocess.DEVNULL, stdout=open(folder / "log", "wb"), stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent)
            self.children.append(child)
            if wait_until_answers(port, child, "a node"):
                self.ports.append(port)
                return
        raise RuntimeError(f"{self.program} did not start on five free ports: {(folder / 'log').read_text()}")

    def version(self):
        with Wire(self.ports[0]) as wire:
            fields = dict(line.split(":", 1) for line in wire.call("INFO", "server").splitlines() if ":" in line)
        if "valkey_version" in fields:
            return f"Valkey {fields['valkey_version']}"
        return f"Redis {fields['redis_version']}"

    def __exit__(self, *_):
        for child in self.children:
            child.kill()
            child.wait()
        self.folder.cleanup()


class Proxy:
    """`preshard serve` with its defaults: what is set here are addresses, and nothing that a client could feel."""

    def __init__(self, program, nodes, config=""):
        self.program, self.nodes, self.config = str(program), nodes, config

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="preshard-matrix-")
        config = Path(self.folder.name) / "preshard.toml"
        text = ('[proxy]\nlisten = "127.0.0.1:0"\n' + self.config + '\n[admin]\nlisten = "127.0.0.1:0"\nhttp = "127.0.0.1:0"\n'
                f'[topology]\nstore = "file:{self.folder.name}/topology.json"\nshards = {SHARDS}\npinned = {PINNED}\n')
        for number, port in enumerate(self.nodes.ports, 1):
            text += f'[[topology.nodes]]\nname = "node-{number}"\naddress = "127.0.0.1:{port}"\n'
        config.write_text(text + '[log]\nformat = "json"\n')
        self.lines, self.ready = [], threading.Event()
        self.child = subprocess.Popen([self.program, "serve", "--config", str(config)], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=die_with_parent)
        self.port = None
        self.reader = threading.Thread(target=self.follow, daemon=True)
        self.reader.start()
        if not self.ready.wait(60) or self.port is None:
            self.__exit__()
            raise RuntimeError("preshard did not start:\n" + "\n".join(self.lines))
        return self

    def follow(self):
        for line in self.child.stdout:
            line = line.rstrip("\n")
            self.lines.append(line)
            if line.startswith("listening data="):
                self.port = int(line.rsplit(":", 1)[1])
            if line.strip() == "ready":
                self.ready.set()
        self.ready.set()

    def complaints(self):
        """Warnings, errors and panics in its log, and an early end."""
        found = []
        for line in self.lines:
            try:
                if json.loads(line).get("level") in ("WARN", "ERROR"):
                    found.append(line)
            except (ValueError, AttributeError):
                if "panicked" in line:
                    found.append(line)
        if self.child.poll() is not None:
            found.append(f"preshard ended with status {self.child.returncode}")
        return found

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        self.reader.join(5)
        self.folder.cleanup()
