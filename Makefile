# Everyday commands, in the environment that is active (PYTHON chooses another). `bash tests/run.sh` makes its own.
PYTHON ?= python
export PYTHON

.PHONY: bench check format test

check:  ## style, types, layers
	bash tests/check.sh

format:  ## put the source in the style that `check` asks for
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

test:  ## all tests that this machine can run
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest $(ARGS)

bench:  ## speed and memory of generation beside Hugging Face's (docs/benchmarks.md)
	OMP_NUM_THREADS=1 PYTHONPATH=. $(PYTHON) benchmarks/rollout.py $(ARGS)
