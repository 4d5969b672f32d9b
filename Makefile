# Everything that a person or a CI run does. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2
C_FILES = $(wildcard bpf/*.[ch] bpf/include/assent/*.h controlplane/assent/native/*.[ch] controlplane/assent/sim/*.[ch] controlplane/assent/numiport/native/*.[ch] tests/packet/*.[ch] tests/host/*.[ch] tests/fuzz/*.[ch] tests/races/*.[ch])

say = @printf '\033[1m==>\033[0m %s\n'

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# -- set-up ---------------------------------------------------------------------------------------

build/.debian: deploy/debian-packages.txt deploy/install-packages
	$(say) "Debian packages"
	@deploy/install-packages deploy/debian-packages.txt
	@mkdir -p build && touch $@

build/.venv: pyproject.toml build/.debian
	$(say) "Python environment in $(VENV), from /usr/bin/python3 (the first time takes a minute or two)"
	@/usr/bin/python3 -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

setup: build/.venv ## install what is needed: Debian packages and a virtual environment

build/.debian-test: deploy/debian-packages-test.txt deploy/install-packages
	$(say) "Debian packages of the tests"
	@deploy/install-packages deploy/debian-packages-test.txt
	@mkdir -p build && touch $@

build/.debian-vm: deploy/debian-packages-vm.txt deploy/install-packages
	$(say) "Debian packages of the virtual machine"
	@deploy/install-packages deploy/debian-packages-vm.txt
	@mkdir -p build && touch $@

# What an extra names, and not the project again: that would be built anew.
EXTRA = import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]])
build/.vm: pyproject.toml build/.venv build/.debian-vm
	$(say) "virtme-ng in $(VENV)"
	@$(BIN)/python -c '$(EXTRA)' vm | xargs $(BIN)/python -m pip install --quiet --disable-pip-version-check
	@touch $@

build/.sim: pyproject.toml build/.venv
	$(say) "matplotlib in $(VENV)"
	@$(BIN)/python -c '$(EXTRA)' sim | xargs $(BIN)/python -m pip install --quiet --disable-pip-version-check
	@touch $@

build/.bench: pyproject.toml build/.venv
	$(say) "What is measured beside us, in $(VENV)"
	@$(BIN)/python -c '$(EXTRA)' bench | xargs $(BIN)/python -m pip install --quiet --disable-pip-version-check
	@touch $@

build: setup ## BPF objects, gRPC stubs, native modules: what is out of date
	$(say) "Build"
	@$(BIN)/python controlplane/build.py

as-root:
	@[ "$$(id -u)" -eq 0 ] || { echo "make: this loads BPF programs and makes network namespaces:" \
		"run it as root (sudo make $(MAKECMDGOALS))" >&2; exit 1; }

# -- the two commands -----------------------------------------------------------------------------

FILE ?=

demo: as-root build ## a real file crosses the fabric, under attack (FILE=/path to choose it); needs root
	$(say) "Demo"
	@$(BIN)/assent demo $(if $(FILE),--file '$(FILE)') --output build/demo.json

test: as-root build/.debian-test build/.bench build/.sim build ## all tests; needs root for those that use the kernel
	$(say) "Tests"
	@$(BIN)/pytest -n $(PYTEST_WORKERS) --dist worksteal tests

# -- other kernels --------------------------------------------------------------------------------

VM_TESTS ?=

vm-test: build/.vm build ## packet and transfer tests on Debian's own kernel, in QEMU (VM_TESTS=files for some)
	$(say) "Tests in a virtual machine"
	@$(BIN)/python tests/vm/run $(VM_TESTS)

# -- C, looked at for longer ----------------------------------------------------------------------

FUZZ_RUNS ?= 10000000

fuzz: build ## fuzz each C parser, FUZZ_RUNS inputs each; the corpus stays in build/fuzz
	$(say) "Fuzz: $(FUZZ_RUNS) inputs a target"
	@FUZZ_RUNS=$(FUZZ_RUNS) $(BIN)/pytest -n $(PYTEST_WORKERS) --timeout=0 tests/fuzz

SIM_EXAMPLES ?= 5000
EXAMPLES ?= 500

soak: as-root build ## races, swaps, kills and ten minutes at full rate; SEED=number repeats a run
	$(say) "Soak: 10,000,000 frames a CPU, 1,000 swaps, 1,000 kills, ten minutes at full rate"
	@SOAK=1 $(BIN)/pytest --timeout=0 -s tests/races tests/netns/test_soak.py tests/packet/test_migration.py
	$(say) "Properties at random: $(EXAMPLES) cases each, and $(SIM_EXAMPLES) plans of each kind for the engine"
	@SOAK=1 EXAMPLES=$(EXAMPLES) SIM_EXAMPLES=$(SIM_EXAMPLES) $(BIN)/pytest -n $(PYTEST_WORKERS) --dist worksteal --timeout=0 \
		-m hypothesis tests/unit

verifier-record: build ## what the verifier goes through for each program is what it may be
	$(say) "Verifier's record"
	@$(BIN)/python tests/packet/verifier.py

vm-verifier-record: build/.vm build ## the same for Debian's own kernel
	$(say) "Verifier's record, in a virtual machine"
	@$(BIN)/python tests/vm/run --python tests/packet/verifier.py --print \
		| $(BIN)/python tests/packet/verifier.py --take

# -- care -----------------------------------------------------------------------------------------

lint: build ## ruff, mypy strict, clang-format
	$(say) "Lint"
	@$(BIN)/ruff check controlplane tests
	@$(BIN)/ruff format --check controlplane tests
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run --Werror $(C_FILES)

format: build ## apply ruff's and clang-format's formatting
	@$(BIN)/ruff check --fix controlplane tests
	@$(BIN)/ruff format controlplane tests
	@$(BIN)/clang-format -i $(C_FILES)

bench: build/.bench build ## measure beside a peer in the same run; writes build/bench.md
	$(say) "Bench"
	@$(BIN)/assent bench all --output build/bench.md

SEED ?= 1

sim: build/.sim build ## any distance, in virtual time, beside a TCP model; writes build/sim (SEED=number for other weather)
	$(say) "Simulator"
	@$(BIN)/assent sim run --seed $(SEED) --output build/sim

clean: ## remove what was built
	@rm -rf build dist controlplane/assent/v1 controlplane/assent/objects controlplane/assent/_*.so

distclean: clean ## and the virtual environment
	@rm -rf $(VENV)

.PHONY: as-root help setup build demo test vm-test fuzz soak verifier-record vm-verifier-record lint format bench sim clean distclean
