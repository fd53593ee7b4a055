# Makefile: the few targets people type. Meson and Ninja do the work; `make help` lists them.
BUILD   ?= build
PREFIX  ?= /usr/local
SECONDS_PER_FUZZER ?= 60

.PHONY: all run test test-packages bench lint fuzz fuzz-again sanitize image image-packages install help clean deps guest-files
.DEFAULT_GOAL := all

all: deps $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet

$(BUILD)/build.ninja: | deps
	@meson setup $(BUILD) --prefix $(PREFIX) >/dev/null || { cat $(BUILD)/meson-logs/meson-log.txt; exit 1; }

deps:
	@tools/install-deps.sh

guest-files: deps
	@tools/guest-files.sh

image:
	@tools/install-deps.sh image
	@tools/make-image.sh $(IMAGE_OPTIONS)

# What test-packages needs, and packages that bench/real.py installs; a minute or two.
image-packages:
	@tools/install-deps.sh image
	@tools/make-image.sh --size 4096 --output "$${POLYVISOR_CACHE:-.cache}/image-packages/debian.img" --packages \
		gcc,libc6-dev,make,stress-ng,openssl,gzip,xz-utils,python3,libpython3.11-testsuite,perl,luajit,nodejs,openjdk-17-jdk-headless,sqlite3
	@tools/image-debs.sh "$${POLYVISOR_CACHE:-.cache}/image-packages/debian.img" git python3-pip

test-packages: all image-packages
	@tests/image/packages.py $(BUILD)/polyvisor "$${POLYVISOR_CACHE:-.cache}/image-packages" $(PACKAGES_OPTIONS)

run: all guest-files
	@tools/run-demo.sh $(BUILD)/polyvisor

test: all guest-files
	@tools/run-tests.sh $(BUILD)

sanitize: deps guest-files
	@tools/run-sanitized.sh

bench: all guest-files
	@bench/run.sh $(BUILD)

lint: deps
	@tools/lint.sh

fuzz: deps
	@fuzz/run.sh $(SECONDS_PER_FUZZER)

fuzz-again: deps
	@fuzz/run.sh --again $(SECONDS_PER_FUZZER)

install: all
	@meson install -C $(BUILD)

clean:
	@rm -rf build build-*

help:
	@echo 'make            install what a build needs, then build $(BUILD)/polyvisor'
	@echo 'make run        boot a Debian kernel to a shell in this terminal (in a pipe: a self-check, then exit)'
	@echo 'make test       all set-up of the tests, then the tests'
	@echo 'make image      build .cache/image/debian.img, a Debian 12 disk (IMAGE_OPTIONS: see tools/make-image.sh)'
	@echo 'make test-packages  tests and programs of Debian packages in a guest of 1 and of 2 CPUs (PACKAGES_OPTIONS: see tests/image/packages.py)'
	@echo 'make sanitize   the tests again under the address and undefined-behaviour sanitizers'
	@echo 'make bench      measure, side by side with peers where they are installed'
	@echo 'make lint       layout, format, headers, static analysis'
	@echo 'make fuzz       every fuzz target for SECONDS_PER_FUZZER (now $(SECONDS_PER_FUZZER)) seconds'
	@echo 'make fuzz-again every fuzz target over the same ground each time, as continuous integration does (see fuzz/runs)'
	@echo 'make install    to PREFIX (now $(PREFIX))'
	@echo 'make clean      remove build directories'
