# The commands of this project. Each sets up what this machine lacks (setup.sh) and then does its job.

CARGO ?= cargo
DEMO_ARGS ?=
BENCH_ARGS ?=
MATRIX_ARGS ?=
SOAK_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo example test bench check matrix soak

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## two real Redis nodes, the proxy in front, a guided load (DEMO_ARGS=--once ends by itself)
	@./setup.sh demo
	$(CARGO) run --release -- demo $(DEMO_ARGS)

example: ## a small application: counters into Postgres, timelines; says what happened
	@./setup.sh example
	$(CARGO) build --release
	target/clients/python/bin/python examples/app/run.py

check: ## format, lints and API documentation, as the tests demand them
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items

# The runner comes last, so that its summary is the last line.
test: ## everything: set-up, format, lints, documentation, all tests
	@./setup.sh test
	@$(MAKE) --no-print-directory check
	$(CARGO) test --quiet --doc
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  echo "$(CARGO) nextest run"; $(CARGO) nextest run; \
	else \
	  echo "$(CARGO) test --lib --bins --tests"; $(CARGO) test --lib --bins --tests; \
	fi

bench: ## side by side with direct Redis, twemproxy and HAProxy (minutes; needs a quiet machine)
	@./setup.sh bench
	./benches/run $(BENCH_ARGS)

matrix: ## every client library, framework and server at hand, and docs/CLIENTS.md out of it (MATRIX_ARGS='--only celery')
	@./setup.sh matrix
	$(CARGO) build --release
	python3 tests/matrix/run.py $(MATRIX_ARGS)

soak: ## hundreds of moves under load, then every fault at every point of a move (an hour; SOAK_ARGS='--moves 20')
	@./setup.sh test
	$(CARGO) bench --quiet --bench soak -- $(SOAK_ARGS)
	PRESHARD_FAULTS=all PRESHARD_WORK_MOVES=200 $(CARGO) test --test integration -- --nocapture moves_faults:: moves_work::
