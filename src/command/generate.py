#!/usr/bin/env python3
"""Asks live servers what their commands are and writes `table.tsv`, the facts this room works from.

    servers --COMMAND, COMMAND DOCS--> merge (the first server named wins, others add) --> table.tsv

Only facts that servers say of themselves go in here. What preshard does with a command is decided in
`policy.rs`. Python's standard library is all it needs:

    python3 src/command/generate.py --server valkey=/path/to/valkey-server \\
        --server redis8=/path/to/redis-server --server redis7=/usr/bin/redis-server > src/command/table.tsv

`--server WORD=PATH` starts that binary in a temporary folder; `--server WORD=HOST:PORT` asks a running one
(an unmodified one: no renamed commands, no modules). The order is the order of precedence, newest first.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

COLUMNS = [
    "name", "arity", "flags", "acl", "keys", "first", "last", "step", "tips",
    "group", "since", "summary", "complexity", "servers", "older", "docs",
]
# What a test compares with a live server, column by column.
COMPARED = ("arity", "flags", "acl", "keys", "first", "last", "step", "tips")
# Words of COMMAND DOCS that have a column of their own; the rest goes into `docs` as JSON.
OWN_COLUMN = {"group", "since", "summary", "complexity"}


class Link:
    """One connection that speaks RESP2, just enough of it to ask questions."""

    def __init__(self, family, address):
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(address)
        self.file = self.socket.makefile("rb")

    def ask(self, *words):
        frame = b"*%d\r\n" % len(words)
        for word in words:
            word = word.encode()
            frame += b"$%d\r\n%s\r\n" % (len(word), word)
        self.socket.sendall(frame)
        return self.reply()

    def reply(self):
        line = self.file.readline()[:-2].decode()
        kind, rest = line[0], line[1:]
        if kind == "+":
            return rest
        if kind == ":":
            return int(rest)
        if kind == "$":
            size = int(rest)
            return None if size < 0 else self.file.read(size + 2)[:-2].decode()
        if kind == "*":
            return None if int(rest) < 0 else [self.reply() for _ in range(int(rest))]
        raise RuntimeError(f"unexpected reply {line!r}")


def pairs(flat):
    """A RESP2 map: names and values in turn."""
    return dict(zip(flat[::2], flat[1::2]))


class Server:
    """A server to ask: started here from a path, or running already."""

    def __init__(self, word, where):
        self.word, self.process, self.folder = word, None, None
        if os.path.exists(where):
            self.folder = tempfile.TemporaryDirectory()
            path = os.path.join(self.folder.name, "ask.sock")
            # The path is used as given: some systems start several programs from one binary, by its name.
            self.process = subprocess.Popen(
                [where, "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no",
                 "--dir", self.folder.name],
                stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
            self.link = self.connect(path)
        else:
            host, port = where.rsplit(":", 1)
            self.link = Link(socket.AF_INET, (host, int(port)))
        info = dict(line.split(":", 1) for line in self.link.ask("INFO", "server").split("\r\n") if ":" in line)
        self.name = info.get("server_name", "redis")
        self.version = info.get("valkey_version") or info["redis_version"]

    def connect(self, path):
        deadline = time.monotonic() + 10
        while True:
            try:
                return Link(socket.AF_UNIX, path)
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit(f"{self.word}: the server did not start")
                time.sleep(0.02)

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.folder.cleanup()

    def rows(self):
        """name → facts, with subcommands as rows of their own (`config|get`)."""
        docs = self.docs(self.link.ask("COMMAND", "DOCS"))
        rows = {}
        for entry in self.link.ask("COMMAND"):
            self.add(rows, entry, docs)
        return rows

    def docs(self, flat):
        found = {}
        for name, entry in pairs(flat).items():
            entry = pairs(entry)
            found.update(self.docs(entry.pop("subcommands", [])))
            found[name] = entry
        return found

    def add(self, rows, entry, docs):
        name, arity, flags, first, last, step, acl, tips, specs, subcommands = entry
        doc = docs.get(name, {})
        name = name.lower()
        row = {
            "name": name, "arity": str(arity), "flags": " ".join(sorted(flags)),
            "acl": " ".join(sorted(word.lstrip("@") for word in acl)),
            "keys": ";".join(key_spec(pairs(spec)) for spec in specs),
            "first": str(first), "last": str(last), "step": str(step), "tips": " ".join(tips),
        }
        for word in OWN_COLUMN:
            row[word] = clean(doc.get(word, ""))
        rest = {word: shape(word, value) for word, value in doc.items() if word not in OWN_COLUMN}
        row["docs"] = json.dumps(rest, separators=(",", ":"), ensure_ascii=False) if rest else ""
        rows[name] = row
        for subcommand in subcommands:
            self.add(rows, subcommand, docs)


def shape(word, value):
    """One value of COMMAND DOCS as JSON: arguments are maps and may nest, all else is kept as it comes."""
    if word == "arguments":
        return [{inner: shape(inner, it) for inner, it in pairs(argument).items()} for argument in value]
    return value


def clean(text):
    assert "\t" not in text and "\n" not in text, text
    return text


def key_spec(spec):
    """`flags/begin_search/find_keys/notes`, numbers parted by colons."""
    begin, find = pairs(spec["begin_search"]), pairs(spec["find_keys"])
    at, by = pairs(begin["spec"]), pairs(find["spec"])
    starts = {
        "index": lambda: f"index:{at['index']}",
        "keyword": lambda: f"keyword:{at['keyword']}:{at['startfrom']}",
        "unknown": lambda: "unknown",
    }[begin["type"]]()
    finds = {
        "range": lambda: f"range:{by['lastkey']}:{by['keystep']}:{by['limit']}",
        "keynum": lambda: f"keynum:{by['keynumidx']}:{by['firstkey']}:{by['keystep']}",
        "unknown": lambda: "unknown",
    }[find["type"]]()
    notes = clean(spec.get("notes", ""))
    assert ";" not in notes, notes
    return "/".join([" ".join(sorted(spec["flags"])), starts, finds, notes])


def merge(all_rows):
    """The first server that has a command gives its row; `older` keeps what others say differently of the facts
    that a test compares with a live server."""
    names = sorted({name for rows in all_rows.values() for name in rows})
    for name in names:
        having = [word for word, rows in all_rows.items() if name in rows]
        row = dict(all_rows[having[0]][name])
        row["servers"] = " ".join(having)
        older = {}
        for word in having[1:]:
            theirs = all_rows[word][name]
            differs = {column: theirs[column] for column in COMPARED
                       if theirs[column] != row[column]}
            if differs:
                older[word] = differs
        row["older"] = json.dumps(older, separators=(",", ":"), sort_keys=True) if older else ""
        yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", action="append", required=True, metavar="WORD=PATH|WORD=HOST:PORT")
    servers = [Server(*given.split("=", 1)) for given in parser.parse_args().server]
    try:
        all_rows = {server.word: server.rows() for server in servers}
    finally:
        for server in servers:
            server.stop()
    out = sys.stdout
    out.write("# What servers say of their own commands. Generated by src/command/generate.py; not edited by hand.\n")
    for server in servers:
        out.write(f"# {server.word} = {server.name} {server.version}, {len(all_rows[server.word])} commands and subcommands\n")
    out.write("# Precedence: in that order, newest first. Columns, parted by tabs:\n")
    out.write("\t".join(COLUMNS) + "\n")
    for row in merge(all_rows):
        out.write("\t".join(row[column] for column in COLUMNS) + "\n")


if __name__ == "__main__":
    main()
