# make run   sets everything up and starts the sidecar with sample rooms and people
# make test  sets everything up and runs every test, two files at a time: most of them wait for a clock or a peer
# make check lint, types, import directions, generated code in sync
# make bench measures the sidecar beside its peers (docs/performance.md); make bench-check says what slipped
# make bench-cluster measures several replicas on one NATS (docs/scaling.md)
# make fuzz  looks for bytes that break the decoder or a connection, for half an hour each
# make image-check builds the container image on a Debian made here, and starts it

UV_VERSION := 0.13.9
PYTHON ?= python3
export UV_SYSTEM_CERTS := 1
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
BIN := .venv/bin

.PHONY: run test check fmt proto bench bench-check bench-cluster fuzz image-check clean

run: .venv/.synced
	@$(BIN)/python -m sidecar dev

test: .venv/.synced
	@tests/prerequisites.sh
	@$(BIN)/pytest -n 2 --dist loadfile

check: .venv/.synced
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	$(BIN)/python protos/generate.py --check

fmt: .venv/.synced
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

proto: .venv/.synced
	$(BIN)/python protos/generate.py

.uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $(PYTHON) is older than 3.11; name a newer one with PYTHON="; exit 1; }
	@$(PYTHON) -m venv .uv \
		|| { rm -rf .uv; echo "make: no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	@.uv/bin/pip --quiet --disable-pip-version-check install uv==$(UV_VERSION)

.venv/.synced: .uv/bin/uv pyproject.toml uv.lock
	@echo "setting up .venv (the first time takes a while)"
	@.uv/bin/uv sync --quiet --frozen --all-extras --python $(PYTHON)
	@touch $@

bench: .venv/.synced
	@$(BIN)/python -m bench

bench-check: .venv/.synced
	@$(BIN)/python -m bench.check

bench-cluster: .venv/.synced
	@$(BIN)/python -m bench.cluster

fuzz: .venv/.synced
	@$(BIN)/python -m fuzz.run

image-check: .venv/.synced
	@$(BIN)/python -m image.check

clean:
	rm -rf .venv .uv .dev
