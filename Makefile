# The commands of a developer and of somebody who wants to see it work. Each sets up what it needs.
PY := .venv/bin/python
IMAGES ?=
EXIT ?=
ARGS ?=

.PHONY: help setup demo up test pythons faults soak bench lint format lock wheels containers sbom advisories pin-images attacks

help:
	@echo "make demo [IMAGES=folder] [EXIT=1]  run a server here, read radiographs, keep serving (or end)"
	@echo "make up [ARGS='--port 9000']        run a server here"
	@echo "make test [ARGS='-k decode']        all tests"
	@echo "make pythons                        the tests on each Python that is installed here"
	@echo "make faults                         every fault test, the long ones too, and the soak (over an hour)"
	@echo "make soak [ARGS='--minutes 2']       faults at random; --seed N repeats a sequence"
	@echo "make bench                          measure everything here; prints tables, writes bench/results"
	@echo "make lint                           what the tests cannot see: style, types, import directions"
	@echo "make format                         lay the code out"
	@echo "make wheels                          build the wheels: the client, and bundles and fonts"
	@echo "make containers                      build the images, bring the profile up, kill each service during a batch"
	@echo "make sbom                            write the software bill of materials (CycloneDX)"
	@echo "make advisories FILE=all.zip         compare the locks with saved OSV advisories, without a network"
	@echo "make pin-images                      renew the digests of the container images (needs Docker and a network)"
	@echo "make attacks URL=... KEY=...         attack a server of yours; each attack has to be refused"
	@echo "make lock                           choose dependency versions anew"

setup:
	@scripts/setup.sh

# exec: a child of make itself, which ends when make is killed
demo: setup
	@exec .venv/bin/fractureai demo --end-with $$PPID $(if $(IMAGES),--images "$(IMAGES)") $(if $(EXIT),--exit)

up: setup
	@exec .venv/bin/fractureai up $(ARGS)

# Three files at a time: most tests wait for servers. A process takes up to 2.5 GB; ARGS='-n 1' where that is too much
test:
	@scripts/setup.sh test
	@exec $(PY) -m pytest -n 3 --dist loadfile --durations 10 $(ARGS)

pythons:
	@scripts/setup.sh test
	@exec scripts/pythons.sh $(ARGS)

faults:
	@scripts/setup.sh faults
	@exec $(PY) -m pytest tests/faults tests/e2e/test_rescore.py -m "faults or not faults" $(ARGS)

soak:
	@scripts/setup.sh faults
	@exec $(PY) -m tests.faults.soak $(ARGS)

bench: setup
	@exec $(PY) -m bench.everything $(ARGS)

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

format: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# Hashes, no index address. One lock for development and tests, one for each image.
COMPILE = $(PY) -m uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links -q
lock: setup
	$(PY) -m pip install -q uv
	$(COMPILE) --extra cpu --extra train --extra edge --extra dev -o requirements.lock
	for role in web read score cpu gpu; do \
	    $(COMPILE) --extra $$role --extra build -c requirements.lock -o requirements-$$role.lock || exit 1; done

wheels: setup
	@$(PY) scripts/wheels.py

containers:
	@scripts/setup.sh test
	@$(PY) scripts/containers.py $(ARGS)

sbom:
	@scripts/setup.sh test
	@$(PY) scripts/sbom.py

advisories:
	@scripts/setup.sh test
	@$(PY) scripts/advisories.py "$(FILE)"

pin-images:
	@scripts/setup.sh test
	@$(PY) scripts/pin_images.py

attacks:
	@scripts/setup.sh test
	@$(PY) -m tests.attacks "$(URL)" --key "$(KEY)" $(ARGS)
