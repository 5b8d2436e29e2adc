# make demo    set up, then train a small network, quantize it within half a point of accuracy, and show the result
# make test    set up, then run all tests
# make check   lint, formatting, types, import rules, compose file
# make docs    the documentation as a site, in build/site
# make lock    the hashes of everything that is installed, after a change of constraints.txt
# make serve   the service with everything embedded, on http://127.0.0.1:8000

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: bench-smaller demo test check docs lock serve bench-job bench-estimate bench-sensitivity bench-planner bench-quantization bench-certificates bench-networks bench-service bench-first-use bench-peers bench-speed clean

# First everything whose bytes are known, then torch, then the project itself, of which nothing is fetched.
$(READY): pyproject.toml constraints.txt requirements-dev.lock client/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements-dev.lock
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable client --editable .
	touch $@

demo: $(READY)
	$(BIN)/python examples/demo.py

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict docker-compose.yml

# searchable, and without a word from elsewhere: build/site/index.html
docs: $(READY)
	$(BIN)/python -m documentation

LOCK := build/lock/bin/uv pip compile pyproject.toml --constraint constraints.txt --universal --python-version 3.11 \
	--generate-hashes --no-emit-package torch --no-emit-package bitbudget-client --no-annotate --quiet --custom-compile-command 'make lock'

# the hashes of every version that constraints.txt names, torch excepted (docs/install.md)
lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet uv==0.13.9
	$(LOCK) --extra worker --extra samples --extra otel --output-file requirements.lock
	$(LOCK) --all-extras --output-file requirements-dev.lock

serve: $(READY)
	$(BIN)/bitbudget serve

# DATA: a folder with a network, its images and prepare.py, e.g. make bench-job DATA=../cifar10-resnet20
bench-job: $(READY)
	$(BIN)/python -m benchmarks.job $(DATA)

# DATA as for bench-job; without it the network that is read is left out. NAMES: only these networks
bench-estimate: $(READY)
	$(BIN)/python -m benchmarks.estimate $(if $(DATA),--data $(DATA)) $(NAMES)

bench-sensitivity: $(READY)
	$(BIN)/python -m benchmarks.sensitivity $(DATA)

bench-quantization: $(READY)
	$(BIN)/python -m benchmarks.quantization $(DATA)

# FOLDER keeps the trained network for the next run
bench-speed: $(READY)
	$(BIN)/python -m benchmarks.speed $(FOLDER)

bench-planner: $(READY)
	$(BIN)/python -m benchmarks.planner $(DATA)

# trains its networks itself; QUICK=1 for a few minutes
bench-certificates: $(READY)
	$(BIN)/python -m benchmarks.certificates $(if $(QUICK),--quick)

# makes its networks itself; QUICK=1 allows fewer formats
bench-networks: $(READY)
	$(BIN)/python -m benchmarks.networks $(if $(QUICK),--quick)

# DATA as for bench-job; QUICK=1 for a tenth of it. Starts a PostgreSQL and a Redis of its own
bench-service: $(READY)
	$(BIN)/python -m benchmarks.service $(DATA) $(if $(QUICK),--quick)

# pages in Chromium, which must be installed; PARTS: only these
bench-first-use: $(READY)
	$(BIN)/python -m benchmarks.first_use $(PARTS)

# DATA as for bench-job; PEERS_PYTHON: an interpreter that has nncf and aimet-onnx (docs/benchmarks.md)
bench-peers: $(READY)
	$(BIN)/python -m benchmarks.peers $(DATA) $(if $(PEERS_PYTHON),--peers-python $(PEERS_PYTHON))

# DATA as for bench-job; PARTS: only these (weights activations coded uniform); SEEDS: of activations
bench-smaller: $(READY)
	$(BIN)/python -m benchmarks.smaller $(DATA) $(if $(PARTS),--only $(PARTS)) $(if $(SEEDS),--seeds $(SEEDS))

clean:
	rm -rf $(VENV) build *.egg-info client/*.egg-info .mypy_cache .ruff_cache .pytest_cache
