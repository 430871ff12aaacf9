# make demo   sets everything up in .venv, then untruncated gradients beside truncated ones: a minute, and demo.svg
# make test   sets everything up in .venv and runs all tests
# make targets  every target of speed as a ratio measured now (a few minutes)
# make torch  installs PyTorch in .venv: tests and targets then use it too
# make figures  measure and draw docs/figures (a few minutes)
# make bench, make bench-quick   the airspeed-velocity suite (bench/README.md)
# make docs   the documentation as HTML, in build/docs
# make lint   ruff and cython-lint
# make test-debug   all tests against a build with bounds checks
# make kill-test [KILLS=200] [SEED=n]  runs interrupted at random times must resume with the same bits
# make fuzz [CALLS=100000] [SEED=n]  everything public, called with random and boundary arguments
# make sanitize [SANITIZE=thread]   all tests against a build with the address and undefined-behaviour sanitizers; or
#             with the thread sanitizer, those of threads, without OpenMP (gcc, half an hour)
# make wheel  source archive and wheel, with the libraries it needs, in dist (Linux; docs/packaging.md)
# make test-oldest   all tests with the oldest versions that pyproject.toml allows of what okcore needs
# make test-aarch64   the C kernels compiled for aarch64 and run under an emulator (Debian: apt install
#             gcc-aarch64-linux-gnu qemu-user)
# make clean  removes .venv and everything built

PYTHON ?= python3
VENV ?= .venv
KILLS ?= 200
CALLS ?= 100000
SANITIZE ?= address,undefined
INSTALL = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
# What an extra of pyproject.toml needs, without building okcore again
extra = $$($(VENV)/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['$(1)'])")
SOURCES := pyproject.toml setup.py $(wildcard $(foreach kind,pyx pxd,okcore/*.$(kind) okcore/*/*.$(kind)) okcore/_simd/*.h) okcore/_simd/simd.c

.PHONY: demo test torch docs lint targets figures bench bench-quick test-debug kill-test fuzz sanitize wheel test-oldest test-aarch64 clean

demo: $(VENV)/.ready
	$(VENV)/bin/okcore demo

test: $(VENV)/.ready
	$(VENV)/bin/python -m pytest

torch: $(VENV)/.ready
	$(INSTALL) $(call extra,torch)

docs: $(VENV)/.ready
	$(INSTALL) $(call extra,docs)
	$(VENV)/bin/python -m sphinx -q -W --keep-going -b html docs build/docs
	$(VENV)/bin/python -m sphinx -q -W -b doctest docs build/doctest

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint okcore

targets: $(VENV)/.ready
	OPENBLAS_NUM_THREADS=1 $(VENV)/bin/python bench/targets.py

figures: $(VENV)/.ready
	OPENBLAS_NUM_THREADS=1 $(VENV)/bin/python bench/figures.py

bench: $(VENV)/.ready
	$(INSTALL) $(call extra,bench)
	cd bench && ../$(VENV)/bin/asv machine --yes && ../$(VENV)/bin/asv run "HEAD^!"

bench-quick: $(VENV)/.ready
	$(INSTALL) $(call extra,bench)
	cd bench && ../$(VENV)/bin/asv machine --yes && OPENBLAS_NUM_THREADS=1 ../$(VENV)/bin/asv run --quick \
	  --environment "existing:../$(VENV)/bin/python" --set-commit-hash "$$(git rev-parse HEAD)"

copy_into = rm -rf $(1) && mkdir -p $(1) && git ls-files -z | xargs -0 cp --parents -t $(1)

# Bounds, overflow and initialisation checks; a folder and an environment of its own beside the optimised build.
test-debug:
	$(call copy_into,build/debug)
	OKCORE_DEBUG=1 $(MAKE) -C build/debug test

# The interpreter is not instrumented, so the sanitizers' libraries are loaded before it; what it leaks is not ours. An
# allocation that asks for too much must fail as it does elsewhere. Neither gcc's OpenMP nor OpenBLAS is instrumented: the
# thread sanitizer would take their waiting for races. pytest would swallow a report: it is written to a file.
# tests/test_memory.py counts allocations, with a library that is preloaded in the sanitizer's place.
comma = ,
REPORT = log_path=$(CURDIR)/build/sanitize/report
SANITIZERS = $(foreach name,$(subst $(comma), ,$(SANITIZE)),$(shell gcc -print-file-name=lib$(if $(filter undefined,$(name)),ub,$(if $(filter address,$(name)),a,t))san.so))
sanitize:
	$(call copy_into,build/sanitize)
	OKCORE_SANITIZE=$(SANITIZE) OKCORE_OPENMP=$(if $(filter thread,$(SANITIZE)),0,1) $(MAKE) -C build/sanitize .venv/.ready
	cd build/sanitize && LD_PRELOAD="$(SANITIZERS)" OPENBLAS_NUM_THREADS=1 \
	  TSAN_OPTIONS=halt_on_error=1:$(REPORT) UBSAN_OPTIONS=print_stacktrace=1:$(REPORT) \
	  ASAN_OPTIONS=detect_leaks=0:max_allocation_size_mb=4096:allocator_may_return_null=1:$(REPORT) \
	  $(if $(filter thread,$(SANITIZE)),setarch -R) .venv/bin/python -m pytest \
	  $(if $(filter thread,$(SANITIZE)),tests/test_threads.py,--ignore=tests/test_memory.py)

wheel: $(VENV)/.ready
	$(INSTALL) $(call extra,wheel)
	rm -rf build/wheel dist
	$(VENV)/bin/python -m build --quiet --outdir build/wheel
	mkdir dist && mv build/wheel/*.tar.gz dist
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" auditwheel repair --wheel-dir dist build/wheel/*.whl
	$(VENV)/bin/auditwheel show dist/*.whl

# Python 3.11 should be at hand as PYTHON: the oldest versions have no wheels for new interpreters.
test-oldest:
	$(call copy_into,build/oldest)
	$(PYTHON) -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb')); print(*p['build-system']['requires'], \
	  *p['project']['dependencies'], sep='\n')" | sed 's/>=/==/' > build/oldest/constraints.txt
	PIP_CONSTRAINT="$(CURDIR)/build/oldest/constraints.txt" $(MAKE) -C build/oldest test

test-aarch64: $(VENV)/.ready
	$(VENV)/bin/python -m pytest -rs tests/test_c_kernels.py -k aarch64

kill-test: $(VENV)/.ready
	$(VENV)/bin/python -m tests.campaigns.kill --kills $(KILLS) $(if $(SEED),--seed $(SEED))

fuzz: $(VENV)/.ready
	$(VENV)/bin/python -m tests.campaigns.fuzz --calls $(CALLS) $(if $(SEED),--seed $(SEED))

$(VENV)/.ready: $(SOURCES)
	@$(PYTHON) -c "import ensurepip, sys; assert sys.version_info >= (3, 11)" 2>/dev/null || \
	  { echo "okcore needs Python 3.11 or newer with venv (Debian: apt install python3-venv python3-dev gcc)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[test,lint]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info okcore/*.so okcore/*/*.so okcore/_blas_int.pxi okcore/cython_kernels_api.h
	rm -f $(patsubst %.pyx,%.c,$(wildcard okcore/*.pyx okcore/*/*.pyx))
