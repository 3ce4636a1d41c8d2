# Everyday commands, in the environment that is active (PYTHON chooses another). `bash tests/run.sh` makes its own.
PYTHON ?= python
export PYTHON

.PHONY: check format test bench

check:  ## style, types, layers
	bash tests/check.sh

format:  ## put the source in the style that `check` asks for
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

test:  ## all tests that this machine can run
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest $(ARGS)

bench:  ## speed and memory of the parts: every program in benchmarks/
	@set -e; for program in benchmarks/*.py; do \
	    test -f "$$program" || { echo "there are no benchmarks yet"; break; }; \
	    echo "== $$program"; OMP_NUM_THREADS=1 $(PYTHON) "$$program" $(ARGS); \
	done
