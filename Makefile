# Short names for what a person types; CMake does the work. Every target installs what is missing (Debian, as root) and builds first.
JOBS ?= $(shell nproc)
SEED ?= 1
PRESET ?= $(eval PRESET := $(shell tools/preset.sh))$(PRESET)

.PHONY: build programs demo demo-seeds check fuzz cuda-build gpu-bundle format tidy clean

build:
	@tools/setup.sh
	@cmake --preset $(PRESET) -Wno-dev --log-level=WARNING
	@cmake --build --preset $(PRESET) -j $(JOBS)

programs:
	@tools/preset.sh say $(PRESET)
	@tools/setup.sh
	@cmake --preset $(PRESET) -Wno-dev --log-level=WARNING
	@cmake --build --preset $(PRESET) -j $(JOBS) --target thimble thimble-world

demo: programs
	@bash examples/demo/run.sh build/$(PRESET) out/demo $(SEED)

# Three worlds, three bases, three adapters: the spread of the demo's number.
demo-seeds: programs
	@for seed in 1 2 3; do bash examples/demo/run.sh build/$(PRESET) out/demo-$$seed $$seed || exit 1; done

check:
	@JOBS=$(JOBS) PRESET=$(PRESET) bash tools/check.sh

# Every fuzz target for a minute under the sanitizers (clang's libFuzzer), as `check` does; TARGETS="tokenizer_json ..." for some, SECONDS_EACH=600 for longer.
fuzz:
	@JOBS=$(JOBS) bash tools/fuzz.sh $(TARGETS)

cuda-build:
	@tools/setup.sh
	@cmake --preset cuda -Wno-dev --log-level=WARNING
	@cmake --build --preset cuda -j $(JOBS)

# out/gpu-bundle.tar.xz: programs, tests and scripts for a machine that has a GPU and CUDA's libraries, and none of our build's.
gpu-bundle:
	@tools/setup.sh xz-utils
	@cmake --preset cuda -Wno-dev --log-level=WARNING
	@cmake --build --preset cuda -j $(JOBS) --target $$(tools/gpu_bundle.sh targets)
	@tools/gpu_bundle.sh

format:
	@tools/setup.sh clang-format
	@git ls-files -co --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format -i

# FILES=src/ops/linear.cpp checks one file; all of src takes long.
FILES ?= $(shell git ls-files -co --exclude-standard 'src/*.cpp')
tidy: build
	@tools/setup.sh clang-tidy
	@clang-tidy --quiet -p build/$(PRESET) $(FILES)

clean:
	@rm -rf build out
