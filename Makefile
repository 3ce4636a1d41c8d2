# Everyday commands, in the environment that is active (PYTHON chooses another). `bash tests/run.sh` makes its own.
PYTHON ?= python
export PYTHON

# Of test-npu: npu, cuda or cpu.
DEVICE ?= npu

.PHONY: bench chaos check doctor format fuzz mutate numerics test test-isa test-mindspeed test-npu

check:  ## style, types, layers
	bash tests/check.sh

format:  ## put the source in the style that `check` asks for
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

test:  ## all tests that this machine can run
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest $(ARGS)

numerics:  ## every recorded case under every layout against TRL and float64; writes the tables of docs/numerics.md and its Chinese page
	OMP_NUM_THREADS=1 $(PYTHON) -m tests.recordings.replay
	OMP_NUM_THREADS=1 $(PYTHON) -m tests.recordings.matrix $(ARGS)

test-isa:  ## the numerical tests as processors with fewer instructions run them: make test-isa ARGS="--levels sse,avx2"
	PYTHONPATH=. $(PYTHON) tests/instruction_sets.py $(ARGS)

chaos:  ## kill random processes of runs and compare with uninterrupted ones: make chaos ARGS="--kills 100 --seed 1"
	OMP_NUM_THREADS=1 PYTHONPATH=. $(PYTHON) -m tests.chaos $(ARGS)

mutate:  ## break the code in chosen places and see that a test notices each; ARGS="--only clip --jobs 2"
	$(PYTHON) -m tests.mutation.runner $(ARGS)

fuzz:  ## read 20,000 mutations of every kind of file; make fuzz ARGS="--only arrow --count 1000"
	OMP_NUM_THREADS=1 PYTHONPATH=. $(PYTHON) -m tests.fuzz.runner $(ARGS)

doctor:  ## what is missing on this machine (docs/ascend.md)
	$(PYTHON) -m mindspeed_dpo.doctor $(ARGS)

test-npu:  ## what has to hold on a device; DEVICE=cpu tries the same on the CPU
	OMP_NUM_THREADS=1 TEST_DEVICE=$(DEVICE) $(PYTHON) -m pytest tests/npu $(ARGS)

test-mindspeed:  ## a checkout of MindSpeed without a device: make test-mindspeed MINDSPEED=/path/to/MindSpeed
	@test -d "$(MINDSPEED)/mindspeed" || { echo "MINDSPEED=$(MINDSPEED) is no checkout of MindSpeed"; exit 2; }
	OMP_NUM_THREADS=1 TEST_MINDSPEED=$(abspath $(MINDSPEED)) $(PYTHON) -m pytest tests/mindspeed \
		tests/distributed/test_npu_contract.py $(ARGS)

# Of bench: which of benchmarks/, and a file of pairs for those that train.
BENCH ?= offline
DATA ?= dataset/dpo_en_demo.json

bench:  ## speed and memory beside peers: make bench BENCH=rollout; offline and limit want DATA (docs/benchmarks.md)
	OMP_NUM_THREADS=1 PYTHONPATH=. $(PYTHON) benchmarks/$(BENCH:rollout=rollout_speed).py $(if $(filter offline limit,$(BENCH)),--data $(DATA)) $(ARGS)
