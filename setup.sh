#!/bin/sh
# Installs what preshard's tests, demo and benchmarks need and this machine does not have.
#
#   ./setup.sh          for the tests: Redis, etcd, Postgres, and the client libraries of the client tests (into target/clients)
#   ./setup.sh demo     for the demo: Redis only
#   ./setup.sh example  for `make example`: Redis, Postgres and two Python libraries
#   ./setup.sh bench    for the benchmarks: Redis, twemproxy, HAProxy, strace
#   ./setup.sh matrix   for `make matrix`: as for the tests, and every client library and framework (into target/matrix; those of
#                       Ruby, PHP, Perl, Lua and C are Debian's packages)
#
# Debian and Ubuntu (apt-get, through sudo only when not root) and macOS (brew). It looks first, installs only what is
# missing, says what it does, and may be run as often as you like. No service is started, stopped or changed: a server
# that a package would start by itself on port 6379 is held back. Exit status: 0 done, 2 something must be
# installed by hand (it says what).
set -eu

what=${1:-test}
root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
clients=$root/target/clients

# The client libraries that the tests drive, one exact version each.
python_packages='redis==8.1.0 valkey==6.2.0 valkey-glide==2.6.0 psycopg[binary]==3.3.9'
node_packages='ioredis@6.0.0 redis@6.3.1'
# Those that only Debian packages, for the matrix; all others have their versions in tests/matrix/entries.py.
matrix_packages='libhiredis-dev libredis-perl lua-redis lua5.1 php-cli php-predis php-redis ruby-redis ruby-sidekiq'

say() { printf 'setup: %s\n' "$*"; }

fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 2
}

have() { command -v "$1" >/dev/null 2>&1; }

# by_hand PACKAGES: the words for somebody without the rights to install.
by_hand() {
  fail "cannot install packages here. Please install by hand: $*
setup:   Debian, Ubuntu:  apt-get install $*
setup:   elsewhere:       the packages that hold redis-server, redis-cli and redis-benchmark (7.0 or later), a C
setup:                    compiler, python3 with venv, node with npm; or set PRESHARD_REDIS_SERVER to a server's path"
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif [ -t 0 ]; then
    sudo "$@"
  else
    sudo -n "$@"
  fi
}

may_be_root() {
  [ "$(id -u)" -eq 0 ] && return 0
  have sudo || return 1
  [ -t 0 ] || sudo -n true 2>/dev/null
}

# Debian's packages ask this file before they start a service; an existing one is somebody's decision and stays.
policy=/usr/sbin/policy-rc.d
policy_is_ours=no
hold_services() {
  [ -e "$policy" ] && return 0
  policy_is_ours=yes
  trap release_services EXIT
  trap 'exit 130' INT TERM
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
  as_root chmod 755 "$policy"
}
release_services() {
  [ "$policy_is_ours" = yes ] || return 0
  policy_is_ours=no
  as_root rm -f "$policy"
}

# install APT_PACKAGES : BREW_FORMULAE
install() {
  apt_packages=${1%%:*}
  brew_formulae=${1##*:}
  if have apt-get; then
    may_be_root || by_hand "$apt_packages"
    say "installing $apt_packages (apt-get)"
    hold_services
    # shellcheck disable=SC2086 # a list of package names
    as_root env DEBIAN_FRONTEND=noninteractive sh -c '
      apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1 || {
        apt-get update -q && apt-get install -y -q --no-install-recommends "$@"
      }' install $apt_packages || by_hand "$apt_packages"
    release_services
  elif have brew; then
    say "installing $brew_formulae (brew)"
    # shellcheck disable=SC2086 # a list of formulae
    brew install $brew_formulae || by_hand "$apt_packages"
  else
    by_hand "$apt_packages"
  fi
}

# need PROGRAM "APT_PACKAGES:BREW_FORMULAE"
need() {
  have "$1" && return 0
  install "$2"
  have "$1" || fail "$1 is still not on PATH after installing ${2%%:*}"
}

need_rust() {
  have cargo || fail "cargo is missing. Install Rust 1.89 or later: https://rustup.rs (or your package manager's rustup)"
  have cc || need cc "gcc libc6-dev:gcc"
}

need_redis() {
  if [ -z "${PRESHARD_REDIS_SERVER:-}" ]; then
    need redis-server "redis-server:redis"
  fi
  need redis-cli "redis-tools:redis"
  need redis-benchmark "redis-tools:redis"
}

# Its programs are not on PATH with Debian, and its package would start a server by itself, which `hold_services` prevents.
need_postgres() {
  for folder in /usr/lib/postgresql/*/bin; do
    [ -x "$folder/initdb" ] && return 0
  done
  if have initdb && have postgres; then return 0; fi
  install "postgresql:postgresql@17"
  if have brew; then brew link --overwrite postgresql@17 >/dev/null 2>&1 || true; fi
}

# The client libraries live below target/ and nowhere else; the stamp names what was installed.
need_python_clients() {
  stamp=$clients/python/installed
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$python_packages" ] && return 0
  need python3 "python3 python3-venv:python"
  say "installing $python_packages into ${clients#"$root"/}/python"
  rm -rf "$clients/python"
  mkdir -p "$clients"
  if ! python3 -m venv "$clients/python" >/dev/null 2>&1; then
    rm -rf "$clients/python"
    install "python3-venv:python"
    python3 -m venv "$clients/python" || fail "python3 -m venv does not work; install python3-venv"
  fi
  # shellcheck disable=SC2086 # a list of package names
  "$clients/python/bin/python" -m pip install --quiet --disable-pip-version-check $python_packages \
    || fail "pip could not install $python_packages into $clients/python"
  printf '%s\n' "$python_packages" >"$stamp"
}

need_node_clients() {
  stamp=$clients/node/installed
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$node_packages" ] && return 0
  need node "nodejs npm:node"
  need npm "npm:node"
  say "installing $node_packages into ${clients#"$root"/}/node"
  rm -rf "$clients/node"
  mkdir -p "$clients/node"
  printf '{"private": true}\n' >"$clients/node/package.json"
  # shellcheck disable=SC2086 # a list of package names
  npm install --prefix "$clients/node" --silent --no-audit --no-fund --no-package-lock --ignore-scripts $node_packages \
    || fail "npm could not install $node_packages into $clients/node"
  printf '%s\n' "$node_packages" >"$stamp"
}

# Debian's packages by their names, since most are no programs.
need_matrix_packages() {
  if ! have apt-get; then
    say "no apt-get: the clients for Ruby, PHP, Perl, Lua and C are left out ($matrix_packages)"
    return 0
  fi
  missing=
  for package in $matrix_packages; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
  done
  [ -z "$missing" ] || install "${missing# }:"
}

# Virtual environments need ensurepip, which Debian keeps apart.
need_venv() {
  need python3 "python3 python3-venv:python"
  python3 -c 'import ensurepip, venv' 2>/dev/null || install "python3-venv:python"
}

case $what in
  demo)
    need_rust
    need_redis
    ;;
  test)
    need_rust
    need_redis
    need etcd "etcd-server:etcd"
    need_postgres
    need_python_clients
    need_node_clients
    ;;
  example)
    need_rust
    need_redis
    need_postgres
    need_python_clients
    ;;
  bench)
    need_rust
    need_redis
    need nutcracker "nutcracker:twemproxy"
    need haproxy "haproxy:haproxy"
    if have apt-get; then need strace "strace:strace"; fi
    ;;
  matrix)
    # All that the tests need, too: it runs them on other servers.
    "$root/setup.sh" test
    need_venv
    need_matrix_packages
    python3 "$root/tests/matrix/run.py" --prepare || fail "not everything could be installed (see above)"
    ;;
  *)
    fail "unknown argument '$what'; use test, demo, example, bench or matrix"
    ;;
esac
say "ready for '$what': $("${PRESHARD_REDIS_SERVER:-redis-server}" --version | cut -d' ' -f1-3)"
