# Everything runs in .venv, made on first use. TORCH_INDEX=URL takes another build of torch (a CUDA one, say).
PYTHON ?= python3
BIN := .venv/bin
TORCH_INDEX ?=
export PYTHONPATH := $(CURDIR)

.PHONY: bill-of-materials fuzz screenshots docker-test test-long soak audit demo test test-fast lint smoke results perf bench bench-demo bench-train bench-index bench-steer demo-smollm2 check-foreign clean clean-data

demo: .venv/installed
	$(BIN)/lexiscope demo

# Two processes, each with one torch thread; a module's tests stay together, so that its fixtures are made once.
PYTEST := $(BIN)/python -m pytest -n $(or $(TEST_PROCESSES),2) --dist loadscope

test: .venv/installed-test
	$(PYTEST)

# Leaves out what needs Chromium, PostgreSQL, Ray or torchrun, and what is slow.
test-fast: .venv/installed-test
	$(PYTEST) -m "not (browser or postgres or ray or torchrun or slow)"

lint: .venv/installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/djlint frontend/templates --check --lint --quiet && $(BIN)/mypy && $(BIN)/lint-imports
	test ! -x $(BIN)/hadolint || $(BIN)/hadolint --failure-threshold warning Dockerfile deploy/proxy.Dockerfile tests/docker/postgres.Dockerfile

smoke: .venv/installed
	$(BIN)/python -m tests.smoke

# Every kind of page of a running server, light, dark and on a phone, as pictures. URL=http://…
screenshots: .venv/installed-test
	$(BIN)/python -m tests.browser.screenshots $(or $(URL),http://127.0.0.1:8000)

# Schemathesis over the whole API of the demo server, with all its checks. ARGS='--examples 20', …
fuzz: .venv/installed-test
	$(BIN)/python -m tests.fuzz $(ARGS)

# The tables and plots of docs/results.md, from results/
results: .venv/installed
	$(BIN)/python -m experiments.results

# Speed and memory. Each bench prints a report; ARGS=--write also keeps it in results/bench and docs/benchmarks.md.
bench: bench-demo

bench-demo: .venv/installed
	$(BIN)/python -m bench.demo $(ARGS)

# Other libraries get virtual environments of their own, under .venv/peers. ARGS='--gpu', ARGS='--only sparsify', …
bench-train: .venv/installed
	$(BIN)/python -m bench.trainers $(ARGS)

# One page of ratios, in a few minutes, beside the committed ones; ARGS=--write commits new ones for this machine.
perf: .venv/installed-test
	$(BIN)/python -m bench.perf $(ARGS)

# Beside SAEDashboard. ARGS='RUN --features 128 1024', …
bench-index: .venv/installed
	$(BIN)/python -m bench.dashboards $(ARGS)

bench-steer: .venv/installed
	$(BIN)/python -m bench.steer_speed $(ARGS)

# Dictionaries of other libraries against those libraries, installed in environments of their own.
check-foreign: .venv/installed-test
	$(BIN)/python -m pytest -m conformance tests/conformance

# A real model of GPT-2's class. TEXT=FILE... trains and indexes on your files instead of what the model writes.
demo-smollm2: .venv/installed
	$(BIN)/python -m cli.smollm2 $(TEXT)

# Makes the environment in a folder, or what is missing of one where that was interrupted or had no python3-venv.
environment = $(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(1)

# torch first, exactly this version: a looser pin fetches gigabytes of CUDA packages.
.venv/installed: pyproject.toml constraints.txt
	$(call environment,.venv)
	$(BIN)/python -m pip install -q --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install -q torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

# The containers, really run; skipped with a reason where no Docker engine can be started.
docker-test: .venv/installed
	$(BIN)/python -m tests.docker

# Minutes to hours: processes killed at random moments, the containers, a minute of the soak. KILLS=10 shortens it.
test-long: .venv/installed-test
	$(BIN)/python -m tests.long --rounds $(or $(KILLS),50)
	$(BIN)/python -m tests.docker
	$(BIN)/python -m bench.soak --minutes 1 --swap-seconds 15

# An hour of a lab's use on the index in data/index.
soak: .venv/installed
	$(BIN)/python -m bench.soak $(ARGS)

.venv/audit/installed:
	$(call environment,.venv/audit)
	PYTHONPATH= .venv/audit/bin/pip install -q pip-audit cyclonedx-bom
	touch $@

# The pinned packages, as CycloneDX.
bill-of-materials: .venv/audit/installed
	.venv/audit/bin/cyclonedx-py requirements constraints.txt --output-reproducible -o bill-of-materials.json

# Known vulnerabilities of these. Fails where the service that knows of them does not answer for a package.
audit: .venv/audit/installed
	.venv/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

# The environment. What was trained, indexed and downloaded stays: clean-data removes it.
clean:
	rm -rf .venv

clean-data:
	rm -rf data/runs data/index data/lenses data/tables data/models data/studies
