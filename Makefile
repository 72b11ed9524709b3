# make demo    the full pipeline on the built-in photographs
# make test    the tests
# make abuse   attacks on relume, and the table of what became of them
# make audit   known faults and terms of what relume needs
# make chaos   kills and damage at random moments, counted in docs/chaos.csv; make chaos MINUTES=5
# Set PYTHON to choose an interpreter; pip's own settings (PIP_EXTRA_INDEX_URL and the like) are respected.

.PHONY: results demo recording docs test test-all abuse chaos audit check format setup setup-dev triton clean

demo: triton
	.venv/bin/relume demo

# Records the output and the images of the demo in docs/.
recording: triton
	.venv/bin/relume demo | sed -u "s|$(CURDIR)/||g" | tee docs/demo.txt
	.venv/bin/python -c "from flows.report import write_contact_sheet as sheet; sheet('docs/pictures/held_out.jpg')"
	cp .relume/reports/demo/noisy.png docs/pictures/to_triton.png
	cp .relume/reports/demo/restored.png docs/pictures/from_triton.png

# The documents that are generated from the code.
docs: setup
	.venv/bin/python -m relume.documents

# The tables of the reference models and their cards, from the shipped weights; SETS is the folder of the benchmark sets.
results: setup
	.venv/bin/python -m reference.results --data $(SETS)

# Two workers, one thread each: while one waits for a server, the other computes.
PYTEST = OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses 2

test: triton setup-dev
	$(PYTEST) -m "not exhaustive"

test-all: triton setup-dev
	$(PYTEST)

abuse: triton setup-dev
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.abuse

# Faults at random moments, MINUTES long; the counts accumulate in docs/chaos.csv. See `python -m tests.chaos --help`.
MINUTES ?= 30
chaos: setup-dev
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.chaos --minutes $(MINUTES)

# Known faults and terms of what relume needs; asks the package index for its advisories.
audit: setup-dev
	.venv/bin/python -m tests.audit

check: setup-dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/relume pipeline lint
	.venv/bin/python -m pytest -q tests/test_imports.py

format: setup-dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

setup:
	sh infra/setup.sh

setup-dev:
	sh infra/setup.sh dev

triton: setup
	sh infra/triton/install.sh

# Removes what git ignores in these folders, never a tracked file.
clean:
	git clean -qffdX -- .relume data models reports package
