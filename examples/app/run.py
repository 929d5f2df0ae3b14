#!/usr/bin/env python3
"""Starts all that app.py needs, in a temporary folder on free ports: two Redis nodes, preshard, Postgres, `preshard flush`;
runs it, and stops everything. `make example` does this with the libraries that setup.sh installs."""
import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [here, os.path.dirname(here)]

import app
import psycopg
import redis
from preshard import Helpers

PRESHARD = os.environ.get("PRESHARD", os.path.join(here, "../../target/release/preshard"))
REDIS = os.environ.get("PRESHARD_REDIS_SERVER", "redis-server")


class Client(Helpers, redis.Redis):
    pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait(what, ready):
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(Exception):
            return ready()
        if time.monotonic() > deadline:
            sys.exit(f"{what} does not come up")
        time.sleep(0.05)


def start(stack, folder, name, *command, user=None):
    """A process that ends with this one."""
    log = open(os.path.join(folder, f"{name}.log"), "w")
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, user=user, group=user and pwd.getpwuid(user).pw_gid)

    def stop():
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()

    stack.callback(stop)


def start_postgres(stack, folder):
    debian = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]), reverse=True)
    bins = [path for path in debian + os.environ["PATH"].split(":") if os.path.exists(os.path.join(path, "initdb"))]
    if not bins:
        sys.exit("no Postgres here; ./setup.sh installs what is missing")
    data, port, user = os.path.join(folder, "postgres"), free_port(), None
    os.mkdir(data, 0o700)
    if os.getuid() == 0:  # which Postgres refuses to run as
        names = [entry.pw_name for entry in pwd.getpwall()]
        user = pwd.getpwnam("postgres" if "postgres" in names else "nobody").pw_uid
        os.chmod(folder, 0o755)
        os.chown(data, user, pwd.getpwuid(user).pw_gid)
    initdb = [f"{bins[0]}/initdb", "--no-sync", "--auth=trust", "--username=app", "--locale=C", "-E", "UTF8", "-D", data]
    group = user and pwd.getpwuid(user).pw_gid
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, user=user, group=group, cwd=data)
    options = ["listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories="]
    options = [word for option in options for word in ("-c", option)]
    start(stack, folder, "postgres-server", f"{bins[0]}/postgres", "-D", data, *options, user=user)
    url = f"postgresql://app@127.0.0.1:{port}/postgres"
    return url, wait("Postgres", lambda: psycopg.connect(url, autocommit=True))


def main():
    with contextlib.ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix="preshard-example-")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        nodes = [free_port(), free_port()]
        for port in nodes:
            options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
            start(stack, folder, f"node-{port}", REDIS, *options)
        port = free_port()
        with open(os.path.join(folder, "preshard.toml"), "w") as config:
            config.write(f'[proxy]\nlisten = "127.0.0.1:{port}"\n[admin]\nlisten = "off"\nhttp = "off"\n')
            config.write('[topology]\nstore = "file:topology.json"\nshards = 8\npinned = 4\n')
            for number, node in enumerate(nodes, 1):
                wait("a node", redis.Redis(port=node).ping)
                config.write(f'[[topology.nodes]]\nname = "node-{number}"\naddress = "127.0.0.1:{node}"\n')
        start(stack, folder, "preshard", PRESHARD, "serve", "--config", "preshard.toml")
        r = Client(port=port, decode_responses=True)
        wait("preshard", r.ping)
        url, db = start_postgres(stack, folder)
        stack.callback(db.close)
        db.execute(subprocess.run([PRESHARD, "flush", "--init-sql"], check=True, capture_output=True, text=True).stdout)
        db.execute("CREATE TABLE page_view (page text PRIMARY KEY, views bigint, updates int DEFAULT 1)")
        print("started: two Redis nodes, preshard in front of them, Postgres, preshard flush", flush=True)
        with open(os.path.join(folder, "flush.toml"), "w") as config:
            config.write(f'redis = "redis://127.0.0.1:{port}"\npostgres = "{url}"\nsource = "example"\nevery = "200ms"\n')
            config.write('[[counter]]\nname = "views"\nsql = """INSERT INTO page_view AS p (page, views)\n')
            config.write("SELECT member, delta FROM delta ON CONFLICT (page)\n")
            config.write('DO UPDATE SET views = p.views + EXCLUDED.views, updates = p.updates + 1"""\n')
        start(stack, folder, "flush", PRESHARD, "flush", "--config", "flush.toml")
        app.run(r, db)
    print("stopped, and the temporary folder is gone")


if __name__ == "__main__":
    main()
