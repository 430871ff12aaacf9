# make demo   sets everything up in .venv and trains a small network (a minute or two)
# make test   sets everything up in .venv and runs all tests
# make targets  every target of speed as a ratio measured now (a few minutes)
# make torch  installs PyTorch in .venv: tests and comparisons then use it too
# make compare  others at the same job; with PyTorch if it is installed in .venv
# make figures  measure and draw docs/figures (a few minutes)
# make bench, make bench-quick   the airspeed-velocity suite (bench/README.md)
# make lint   ruff and cython-lint
# make test-debug   all tests against a build with bounds checks
# make kill-test [KILLS=200] [SEED=n]  runs interrupted at random times must resume with the same bits
# make fuzz [CALLS=100000] [SEED=n]  everything public, called with random and boundary arguments
# make clean  removes .venv and everything built

PYTHON ?= python3
VENV ?= .venv
KILLS ?= 200
CALLS ?= 100000
INSTALL = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
# What an extra of pyproject.toml needs, without building okcore again
extra = $$($(VENV)/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['$(1)'])")
SOURCES := pyproject.toml setup.py $(wildcard $(foreach kind,pyx pxd h,okcore/*.$(kind) okcore/*/*.$(kind))) okcore/_simd/simd.c

.PHONY: demo test torch lint targets compare figures bench bench-quick test-debug kill-test fuzz clean

demo: $(VENV)/.ready
	$(VENV)/bin/okcore train copy

test: $(VENV)/.ready
	$(VENV)/bin/python -m pytest

torch: $(VENV)/.ready
	$(INSTALL) $(call extra,torch)

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint okcore

targets: $(VENV)/.ready
	OPENBLAS_NUM_THREADS=1 $(VENV)/bin/python bench/targets.py

compare: $(VENV)/.ready
	OPENBLAS_NUM_THREADS=1 $(VENV)/bin/python bench/compare

figures: $(VENV)/.ready
	OPENBLAS_NUM_THREADS=1 $(VENV)/bin/python bench/figures.py

bench: $(VENV)/.ready
	$(INSTALL) $(call extra,bench)
	cd bench && ../$(VENV)/bin/asv machine --yes && ../$(VENV)/bin/asv run "HEAD^!"

bench-quick: $(VENV)/.ready
	$(INSTALL) $(call extra,bench)
	cd bench && ../$(VENV)/bin/asv machine --yes && OPENBLAS_NUM_THREADS=1 ../$(VENV)/bin/asv run --quick \
	  --environment "existing:../$(VENV)/bin/python" --set-commit-hash "$$(git rev-parse HEAD)"

# Bounds, overflow and initialisation checks; a folder and an environment of its own beside the optimised build.
test-debug:
	rm -rf build/debug && mkdir -p build/debug
	git ls-files -z | xargs -0 cp --parents -t build/debug
	OKCORE_DEBUG=1 $(MAKE) -C build/debug test

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
	rm -rf $(VENV) build dist *.egg-info okcore/*.so okcore/*/*.so okcore/_blas_int.pxi
	rm -f $(patsubst %.pyx,%.c,$(wildcard okcore/*.pyx okcore/*/*.pyx))
