"""Where an entry's libraries live: one folder for each below target/matrix, made when it is missing or its pins changed."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

from stand import ROOT

HERE = Path(__file__).resolve().parent
TARGET = ROOT / "target" / "matrix"
RUST = threading.Lock()
# On Debian: the packages that setup.sh matrix installs. Elsewhere these entries are left out, and that is said.
HAS_APT = shutil.which("apt-get") is not None


class Missing(Exception):
    """What an entry needs is not there; `expected` where this system does not have it at all."""

    def __init__(self, text, expected=False):
        super().__init__(text)
        self.expected = expected


def slug(name):
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-").replace("--", "-")


def run(command, **more):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout[-2000:]}")
    return done.stdout


def fresh(folder, pins):
    """True if the folder holds exactly these packages; else it is emptied."""
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text().split() == list(pins):
        return True
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"matrix: installing {' '.join(pins)} into {folder.relative_to(ROOT)}", flush=True)
    return False


def python(name, pins):
    folder = TARGET / "python" / slug(name)
    if not fresh(folder, pins):
        run(["python3", "-m", "venv", folder])
        run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins])
        (folder / "installed").write_text("\n".join(pins) + "\n")
    return folder / "bin" / "python"


def node(name, pins):
    folder = TARGET / "node" / slug(name)
    if not fresh(folder, pins):
        (folder / "package.json").write_text('{"private": true}\n')
        run(["npm", "install", "--prefix", folder, "--silent", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", *pins])
        (folder / "installed").write_text("\n".join(pins) + "\n")
    return folder / "node_modules"


def rust():
    with RUST:
        target = TARGET / "rust"
        run(["cargo", "build", "--quiet", "--locked", "--manifest-path", HERE / "rust" / "Cargo.toml", "--target-dir", target])
        return target / "debug" / "preshard-matrix"


def debian(packages):
    if not HAS_APT:
        raise Missing(f"needs Debian's {' '.join(packages)}", expected=True)
    absent = [package for package in packages if subprocess.run(["dpkg", "-s", package], capture_output=True).returncode != 0]
    if absent:
        raise Missing(f"needs {' '.join(absent)}: run ./setup.sh matrix")


def compiled(source):
    program = TARGET / source.stem
    TARGET.mkdir(parents=True, exist_ok=True)
    run(["cc", "-Wall", "-Wextra", "-Werror", "-O1", "-o", program, source, "-lhiredis"])
    return program


def pinned(pins):
    """The version that the first pin names."""
    first = pins[0].split("==")[-1] if "==" in pins[0] else pins[0].rsplit("@", 1)[-1]
    return first


def prepare(entry):
    """(command without port and database, environment, version if a pin tells it)."""
    script, *arguments = entry.program
    path = HERE / script
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "NODE_NO_WARNINGS": "1"}
    if entry.pip:
        return [python(entry.name, entry.pip), path, *arguments], env, pinned(entry.pip)
    if entry.npm:
        env["NODE_PATH"] = str(node(entry.name, entry.npm))
        return ["node", path, *arguments], env, pinned(entry.npm)
    if script == "rust":
        return [rust(), *arguments], env, None
    debian(entry.apt)
    if path.suffix == ".c":
        return [compiled(path), *arguments], env, None
    programs = {".rb": "ruby", ".php": "php", ".pl": "perl", ".lua": "lua5.1"}
    return [programs[path.suffix], path, *arguments], env, None


def prepare_all(entries, with_suite, with_servers):
    """Everything that is installed or built, before anything runs. The exit status of `run.py --prepare`."""
    status = 0
    steps = [(entry.name, lambda entry=entry: prepare(entry)) for entry in entries]
    if with_suite:
        import suite  # here, since it needs this module

        steps.append((suite.NAME, suite.prepare))
    if with_servers:
        import servers  # here, since it needs this module

        steps.append(("servers", servers.prepare))
    for name, step in steps:
        try:
            step()
        except Missing as missing:
            print(f"matrix: {name}: {missing}", flush=True)
            status = status if missing.expected else 2
        except (RuntimeError, OSError) as error:
            print(f"matrix: {name}: {error}", flush=True)
            status = 2
    return status
