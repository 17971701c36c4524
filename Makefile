# `make help` lists the targets. Each does the set-up it needs; the second time that takes a second.
PY := .venv/bin/python
# Tests run with the Vulkan validation layers, on the software device unless ZEROPOINT_DEVICE names another one.
# Files in the order of their folders: the longest tests, those of tests/e2e, do not come last.
PYTEST = $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder
TEST_ENV = ZEROPOINT_VALIDATION=1 ZEROPOINT_DEVICE=$${ZEROPOINT_DEVICE:-cpu}
NATIVE = $(wildcard backend/runtime/native/*.h backend/runtime/native/*.cpp)
.DEFAULT_GOAL := help

.PHONY: setup
setup: ## Debian packages, virtual environment, player and kernel library (scripts/setup.sh)
	@scripts/setup.sh

.PHONY: demo
demo: setup ## Export SmolLM2-135M as 8da4w and let it answer a question through Vulkan
	$(PY) examples/02_smollm2.py

.PHONY: test
test: setup layers ## All tests but those marked slow, on the software device
	$(TEST_ENV) $(PYTEST) -m "not slow"

.PHONY: test-all
test-all: layers ## All tests, and the backend suite; installs the models that they need
	@scripts/setup.sh --test-models
	$(TEST_ENV) $(PYTEST)
	@$(MAKE) backend-suite

# Validation layers that some tests need (9 MB of packages).
.PHONY: layers
layers:
	@scripts/newer_layers.sh

.PHONY: test-versions
test-versions: ## What depends on them, at the lowest and the newest torch and transformers (5 GB of packages)
	$(TEST_ENV) scripts/test_versions.sh

.PHONY: test-arm
test-arm: setup ## The player cross-built for arm64 and run by qemu: linears and the demo's model (200 MB of packages)
	scripts/test_arm64.sh

.PHONY: test-drivers
test-drivers: setup ## Operators, linears, a small model and the demo on software drivers, and a table (80 MB of packages)
	scripts/test_drivers.sh

.PHONY: test-compilers
test-compilers: setup ## Every shader variant through RADV for eight GPUs, to MSL and HLSL: worse than recorded fails (90 MB of packages)
	scripts/test_compilers.sh

.PHONY: backend-suite
backend-suite: setup ## ExecuTorch's backend test suite, its operator tests, through our partitioner; prints the counts
	$(TEST_ENV) $(PYTEST) -p tests.backend_suite.plugin -c pyproject.toml --rootdir . --dist worksteal -r fE \
		-q --pyargs executorch.backends.test.suite.operators

.PHONY: check
check: setup ## Format, lint, types, unit tests, shaders, golden files
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/clang-format --dry-run -Werror $(NATIVE)
	$(PY) -m backend.kernels build --shaders shaders --out build/check/kernels.zpl
	$(TEST_ENV) $(PYTEST) tests/unit tests/golden

.PHONY: format
format: setup ## Rewrite Python and C++ in the house format
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .
	.venv/bin/clang-format -i $(NATIVE)

.PHONY: fuzz
fuzz: setup ## 1,000,000 damaged Programs and kernel libraries through the readers, 10,000 loads, with sanitizers
	scripts/fuzz.sh

.PHONY: wheel
wheel: setup ## dist/: the wheel for a package index, checked in an environment of its own
	scripts/wheel.sh

.PHONY: clean
clean: ## Remove build/ and .venv/
	rm -rf build dist .venv .mypy_cache .pytest_cache .ruff_cache

.PHONY: help
help: ## This list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18
