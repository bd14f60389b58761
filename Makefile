# make kperf   set up and print the K-Perf table of a 2-PFLOPS chip (CHIP=name changes it)
# make test    set up and run the whole suite with linters
# make soak    the long stochastic suites at full size
# make sanitize  all tests of C code under ASan and UBSan, built by gcc and by clang; goes on where it was interrupted
# make emulated  AVX-512 and VNNI kernels in an emulator, on a CPU without them (tests/emulated_cpu)
# make bench   benchmarks (never part of the tests)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHIP ?= rebel-quad

.PHONY: kperf test lint soak sanitize emulated bench clean

kperf: $(STAMP)
	$(BIN)/npusim kperf --chip $(CHIP) --out out

test: $(STAMP) lint
	$(BIN)/python -m pytest -n auto

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(STAMP)
	NPUSIM_SOAK=1 $(BIN)/python -m pytest -n auto

sanitize: $(STAMP)
	status=0; for compiler in gcc clang; do \
	  PYTHON=$(CURDIR)/$(BIN)/python tests/sanitize.sh $$compiler || status=1; done; exit $$status

emulated: $(STAMP)
	PYTHON=$(CURDIR)/$(BIN)/python FEATURES=avx512vnni tests/emulated_cpu/run.sh corei3_cnl
	PYTHON=$(CURDIR)/$(BIN)/python tests/emulated_cpu/run.sh corei7_skylake_x 'sh tests/emulated_cpu/kernels.sh c-avx512'

bench: $(STAMP)
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-autosave

# An editable install does not notice changed C sources, hence the list of prerequisites.
$(STAMP): pyproject.toml setup.py $(wildcard csrc/* csrc/*/* csrc/*/*/*) | prerequisites
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# Debian ships Python without venv and headers: say so before anything fails half-way.
.PHONY: prerequisites
prerequisites:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  && $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  && test -e "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h" \
	  && command -v $${CC:-gcc} >/dev/null \
	  || { echo 'npusim needs Python >= 3.11 with venv and headers, and a C compiler. On Debian or Ubuntu:'; \
	       echo '  sudo apt-get install -y python3-venv python3-dev gcc make'; exit 1; }

clean:
	rm -rf $(VENV) build out *.egg-info kernels/npukernels/*.so npusim/*.so
