# Every target works on a machine that has Python 3.11 or newer and make.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
UV := $(shell command -v uv 2>/dev/null || echo $(BIN)/uv)
export VIRTUAL_ENV :=

.PHONY: help setup run test check format bench bench-long bench-docs fuzz schemas \
	bench-pages screenshots \
	rules test-deploy image sbom images test-containers chaos mutants

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: .venv/.synced ## Create .venv with the windsor command, from the lock

.venv/.synced: pyproject.toml uv.lock
	@command -v uv >/dev/null 2>&1 || test -x $(BIN)/uv || \
		{ $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet "uv>=0.13"; }
	$(UV) sync --locked --all-extras --quiet
	@touch $@

run: setup ## Everything on this machine: Kafka, Postgres, the worker and a month of customers
	@$(BIN)/windsor run

test: setup ## Run the tests on real servers (from the environment, containers, or embedded)
	$(BIN)/pytest -n auto --dist loadfile --cov --cov-report=term
	@echo "coverage of the pure core, branches included, must be whole:"
	@$(BIN)/coverage report --include="consumer/core/*" --fail-under=100

# Those of the first release find an empty database, and so may index and rewrite its tables; those
# that come after it may not. The other rules are .squawk.toml's, which an exclusion here replaces.
FIRST_RELEASE = $(wildcard $(addprefix schemas/migrations/,0001_* 0002_* 0003_* 0004_*))
SQUAWK_FIRST = require-concurrent-index-creation,adding-field-with-default,require-lock-timeout,require-statement-timeout,prefer-bigint-over-int
LATER = $(filter-out $(FIRST_RELEASE),$(wildcard schemas/migrations/*.sql))

check: setup ## Format, lint, types, import contracts and migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/squawk --exclude=$(SQUAWK_FIRST) $(FIRST_RELEASE)
	$(if $(LATER),$(BIN)/squawk $(LATER))

format: setup ## Let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# ONLY=throughput,replay runs some scenarios; CALLS=20000 and ROUNDS=1 make them short.
BENCH_OPTIONS = $(if $(ONLY),--only $(ONLY)) $(if $(CALLS),--calls $(CALLS)) $(if $(ROUNDS),--rounds $(ROUNDS))

bench: setup ## Measure from Kafka to committed on this machine, beside the rivals (ONLY, CALLS, ROUNDS)
	$(BIN)/python -m bench.run $(BENCH_OPTIONS)

bench-long: setup ## Measure what takes long: three months of calls (CALLS, ROUNDS)
	$(BIN)/python -m bench.run --long $(BENCH_OPTIONS)

bench-docs: setup ## Write the last results into docs/performance.md and its plots
	$(BIN)/python -m bench.report

fuzz: SECONDS ?= 60
fuzz: setup ## Fuzz decoding and folding: SECONDS=60, or INPUT=path to repeat one input
	$(UV) run --locked --all-extras --group fuzz --quiet \
		python -m tests.fuzz --seconds $(SECONDS) $(if $(INPUT),--input $(INPUT))

schemas: setup ## Write the documents of the contract: JSON Schema, AsyncAPI, the table of fields
	$(BIN)/python -m schemas.documents

rules: ## Write Prometheus' rules as the object that its operator takes
	@{ sed '/^spec:$$/q' deploy/prometheus/prometheus-rule.yaml; \
		sed 's/^./  &/' deploy/prometheus/rules.yaml; } > deploy/prometheus/prometheus-rule.yaml.new
	@mv deploy/prometheus/prometheus-rule.yaml.new deploy/prometheus/prometheus-rule.yaml

test-deploy: setup ## Try deploy/ on a real API server and Prometheus (needs Go and Debian packages; cached)
	$(BIN)/python -m tests.deploy.programs
	$(BIN)/pytest tests/deploy -m deploy

# The files of the checkout that an image is made from; what lies about beside them is not sent.
IMAGE ?= windsor:latest
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
SENT = git ls-files pyproject.toml uv.lock README.md LICENSE consumer dashboard schemas $(1) | tar -c -T -
# The base of images that are made here, where no registry is reached.
LOCAL_BASE := windsor-base:bookworm
KAFKA_IMAGE := apache/kafka:4.3.0
POSTGRES_IMAGE := postgres:18

image: ## Build the production image (IMAGE, BASE)
	$(call SENT,deploy/Dockerfile) | docker build -f deploy/Dockerfile -t $(IMAGE) \
		$(if $(BASE),--network host --build-arg BASE=$(BASE)) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$$(git rev-parse HEAD) -

sbom: setup ## Write what the image has of Python's packages: dist/sbom.cdx.json (CycloneDX)
	@mkdir -p dist
	$(UV) export --locked --no-dev --extra otel --format cyclonedx1.5 --quiet \
		--preview-features sbom-export -o dist/sbom.cdx.json > /dev/null

images: ## Make a base, a Kafka and a Postgres for the tests, where no registry is reached
	docker image inspect $(LOCAL_BASE) > /dev/null 2>&1 || sh deploy/images/base.sh $(LOCAL_BASE)
	for target in kafka=$(KAFKA_IMAGE) postgres=$(POSTGRES_IMAGE); do \
		$(call SENT,deploy/images) | docker build --network host -f deploy/images/Dockerfile \
			--target $${target%%=*} -t $${target#*=} --build-arg BASE=$(LOCAL_BASE) \
			--build-arg KAFKA=$(lastword $(subst :, ,$(KAFKA_IMAGE))) - || exit 1; \
	done

test-containers: setup ## Test the image, and the tests' servers in containers; makes an engine where there is none
	sh deploy/images/engine.sh $(MAKE) sbom images image BASE=$(LOCAL_BASE) tested-containers

.PHONY: tested-containers
tested-containers:
	TESTCONTAINERS_RYUK_DISABLED=true TESTCONTAINERS_HOST_OVERRIDE=127.0.0.1 \
		TESTCONTAINERS_CONNECTION_MODE=docker_host WINDSOR_TEST_IMAGE=$(IMAGE) \
		$(BIN)/pytest tests/containers tests/test_status.py -m "containers or not containers"

bench-pages: setup ## Measure the dashboard's pages with 1,000,000 users and 10,000,000 events
	$(BIN)/python -m bench.pages

screenshots: setup ## Take the pictures of the dashboard that the docs show (needs Chromium and npm)
	$(BIN)/python -m tests.browser.screenshots

# ONLY=kill,broker plays some scenarios; ROUNDS=3 and SIMULATE=60 make it short; POISON=0.5 is its share.
CHAOS_OPTIONS = $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only "$(ONLY)") $(if $(ROUNDS),--rounds $(ROUNDS)) \
	$(if $(SIMULATE),--simulate $(SIMULATE)) $(if $(SHORT),--short-timers) $(if $(POISON),--poison $(POISON))

chaos: setup ## Break servers, networks and workers under load, and judge what is left (SEED, ONLY, ROUNDS, POISON)
	$(BIN)/python -m tests.chaos $(CHAOS_OPTIONS)

mutants: setup ## Change the core in every small way: its tests must notice (an hour or more)
	@# Anew: what it copied before is of the code before.
	rm -rf mutants
	$(UV) run --locked --all-extras --group mutants --quiet mutmut run
	$(UV) run --locked --all-extras --group mutants --quiet python -m tests.mutants --score-min 0.85
