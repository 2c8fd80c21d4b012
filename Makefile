# Everything a person or CI runs. Each target first makes sure that .venv holds what the locks say (scripts/install),
# which takes no time and no network when it does.

# Python compiles a module once, not again in each of the hundreds of processes that the tests start.
unexport PYTHONDONTWRITEBYTECODE

# Ends what it runs when make ends, even if make was killed.
TIED := exec .venv/bin/python testing/tagstream_testing/local/tied.py TERM 0

.DEFAULT_GOAL := help
.PHONY: help install install-demo demo stack unit test lint rules docs audit bench bench-models gpu gpu-kit learn learn-fast parity chaos chart kube dashboards sinks soak fuzz hostile image release coverage prove

help: ## This list
	@awk 'BEGIN { print "tagstream: tags and captions for every image of an image store\n" } \
	  /^[a-z-]+:.*## / { split($$0, part, ":.*## "); printf "  make %-14s %s\n", part[1], part[2] } \
	  /^# \+ / { printf "  %-19s %s\n", "", substr($$0, 5) }' $(MAKEFILE_LIST)

install: ## Make .venv and put all into it: worker, index, demo, training, the tests' tools
# + PYTHON=python3.12 chooses the interpreter (3.11 to 3.13)
	@scripts/install

install-demo: # of that what the demo needs
	@scripts/install --demo

demo: install-demo ## Start real servers, tag photographs, watch it happen (ends by itself)
# + PHOTOS=folder takes your own images, KEEP=1 leaves everything running
	@$(TIED) .venv/bin/tagstream demo $(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(filter-out 0,$(KEEP)),--keep) \
	  --page build/demo.html

stack: install-demo ## Start the servers alone and print the environment to export (until Ctrl-C)
	@$(TIED) .venv/bin/tagstream stack up

test: install ## Run the tests, on real servers where they need them (a quarter of an hour on two cores)
# + those of training and deploy where files that they cover changed; ALL=1 runs all; ARGS="-k cache" goes to pytest
	@.venv/bin/python scripts/run_tests.py test $(if $(filter-out 0,$(ALL)),--all) $(ARGS)

unit: install ## Run the unit tests that need no server, without the slow ones (a minute)
	@.venv/bin/python scripts/run_tests.py unit $(ARGS)

lint: install ## Check style, types, imports between packages, words and workflows
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@.venv/bin/codespell
	@.venv/bin/python scripts/words.py
	@.venv/bin/python scripts/prove.py --stale
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml

rules: install ## Check the alerts with Prometheus' own tool, and try each (builds the tool once, about two minutes)
	@.venv/bin/python -m uv pip install --quiet --no-deps --require-hashes -r requirements-go.lock
	@.venv/bin/python -m tests.support.go_programs rules
	@promtool=$$(.venv/bin/python -c 'from tests.support.go_programs import path; print(path("promtool"))') && \
	  $$promtool check rules --lint=all --lint-fatal deploy/monitoring/rules/*.yaml && \
	  $$promtool test rules deploy/monitoring/tests/*.yaml

chart: install ## Check the Helm chart, and compare its objects with those of kustomize (builds helm once, some minutes)
	@.venv/bin/python -m uv pip install --quiet --no-deps --require-hashes -r requirements-go.lock
	@.venv/bin/python -m tests.support.go_programs helm
	@.venv/bin/python -m pytest -q -m kube tests/kube/test_chart.py --junitxml build/junit/chart.xml $(ARGS)

# not --quiet, which also silences what --strict counts
docs: install ## Build the pages of docs/ as a site in build/site; a dead link or a page left out is an error
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

audit: ## Ask a public database for known vulnerabilities of every locked package
	@$(or $(PYTHON),python3) scripts/audit.py

image: install ## Build the container images without Docker and run each as its pods do (half an hour)
# + as root with apt-get install buildah debootstrap, 27 GB meanwhile; TARGETS=cpu builds one; ARGS="-k index" goes to pytest
	@ARGS="$(ARGS)" .venv/bin/python scripts/image.py $(TARGETS)

release: install ## Build wheels, source distributions, charts and the bill of materials, and prove them (some minutes)
# + into dist/; publishes nothing. UV_OFFLINE=1 uses cached packages alone, SKIP_DEMO=1 leaves out the demo
	@.venv/bin/python scripts/release.py

bench: install ## Measure; each figure is a ratio taken in one run
	@.venv/bin/python -m benchmarks $(ARGS)

bench-models: install ## Measure RAM, RAM++ and Tag2Text at full size (about 4 GB, some minutes)
# + ARGS="--models ram --official CHECKOUT" and others: ARGS=--help lists them
	@.venv/bin/python -m benchmarks.models $(ARGS)

gpu: install ## On a machine with a GPU: speed, answers, memory, self-test and several workers, in order of worth
# + into build/gpu.json, within MINUTES=9; ARGS=--small tries it on a processor
	@$(TIED) .venv/bin/python -m benchmarks gpu --minutes $(or $(MINUTES),9) $(ARGS)

gpu-kit: install ## Gather what that needs on a machine without network, beside torch and numpy (24 MB)
# + into build/gpu-kit.tar.gz, for the Python there: PYTHON_VERSION=3.12
	@scripts/gpu-kit

learn: install ## Teach a small tagger and captioner on drawn images by the whole loop (some minutes)
# + into build/learn, where a run that was stopped goes on; SEED=1, SEEDS=5 for five with their spread
	@$(TIED) .venv/bin/python -m examples.learn -o build/learn --seed $(or $(SEED),0) --seeds $(or $(SEEDS),1)

learn-fast: install ## The same in half a minute, as a test that asserts only that the last model beats the first
	@.venv/bin/python -m pytest -q training/tests/integration/test_learn.py $(ARGS)

parity: install ## Compare the full-size models with the original programs' answers (about 4 GB, some minutes)
	@.venv/bin/python -m pytest -m full tests/parity --timeout=1200 --junitxml build/junit/parity.xml $(ARGS)

chaos: install ## Break real servers and workers on purpose; writes build/chaos-report.md (about 50 minutes)
# + ARGS="-k frozen" goes to pytest
	@CHAOS_REPORT=build/chaos-report.md .venv/bin/python -m pytest -m "chaos or fault" --ignore tests/hostile --junitxml build/junit/chaos.xml $(ARGS)

kube: install ## Scale real workers on a real Kubernetes control plane (19 minutes to build it once, then half an hour)
# + about 5 GB in the user's cache; ARGS="-k lag" goes to pytest
	@.venv/bin/python -m uv pip install --quiet --no-deps --require-hashes -r requirements-go.lock
	@.venv/bin/python -m tests.support.go_programs control-plane
	@.venv/bin/python -m tests.support.go_programs prometheus
	@.venv/bin/python -m tests.support.go_programs helm
	@.venv/bin/python -m pytest -q -m kube tests/kube --junitxml build/junit/kube.xml $(ARGS)

dashboards: install ## Ask a real Prometheus every query of every dashboard, make alerts fire, run compose's collector
# + a quarter of an hour; builds both once (some minutes, 1 GB in the user's cache); ARGS="-k panel" goes to pytest
	@.venv/bin/python -m uv pip install --quiet --no-deps --require-hashes -r requirements-go.lock
	@.venv/bin/python -m tests.support.go_programs prometheus
	@.venv/bin/python -m tests.support.go_programs collector
	@.venv/bin/python -m pytest -q -m dashboards tests/dashboards --junitxml build/junit/dashboards.xml $(ARGS)

sinks: install ## Run examples/index: Kafka Connect on a real Kafka and PostgreSQL, OpenSearch's own checks (three minutes)
# + fetches 99 MB into the user's cache once; ARGS="-k tombstone" goes to pytest
	@.venv/bin/python -m pytest -q -m sinks tests/sinks --junitxml build/junit/sinks.xml $(ARGS)

soak: install ## Kill and freeze workers and broker 100 times under load; writes build/soak-report.md (about 15 minutes)
# + SOAK_STRIKES=100 (below 50 memory is not judged), SOAK_MINUTES=60 (at most), SOAK_SEED=1
	@$(TIED) .venv/bin/python -m tests.chaos.soak

fuzz: install ## Try hostile inputs on every parser; writes build/fuzz-report.md (10 minutes)
# + MINUTES=10, SEED=1, ONLY=messages,images; what breaks a promise is kept in tests/fuzz/crashes
	@FUZZ_MINUTES=$(or $(MINUTES),10) FUZZ_SEED=$(SEED) FUZZ_ONLY=$(ONLY) $(TIED) .venv/bin/python -m pytest -v \
		-n 1 --max-worker-restart 100 --timeout 0 -k no_input_breaks --junitxml build/junit/fuzz.xml tests/fuzz

coverage: install ## Run the unit tests that need no server and show which lines none of them passes
# + ARGS=tests/unit/pipeline for fewer; processes that a test starts are not looked into
	@mkdir -p build
	@.venv/bin/python -m coverage run -m pytest -q -p no:tests.support.durations -m "not servers and not full and not chaos and not kube and not dashboards and not sinks and not image" \
	  $(or $(ARGS),tests/unit index/tests ocr/tests remote/tests testing/tests training/tests)
	@.venv/bin/python -m coverage report

hostile: install ## Let store, Redis and producers lie to a worker; writes build/hostile-report.md (some minutes)
# + ARGS="-k store" goes to pytest
	@HOSTILE_REPORT=build/hostile-report.md .venv/bin/python -m pytest tests/hostile --junitxml build/junit/hostile.xml $(ARGS)

prove: install ## Run every suite without a fresh row in tests/PROVED.md, one after the other, and write the rows (four hours)
# + SUITE=chaos runs one; on a machine that does nothing else
	@.venv/bin/python scripts/prove.py $(SUITE)
