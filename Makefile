# Every target is a few lines: cargo, or a script of hack/. As root or as a user who may use sudo.

CARGO ?= cargo
PREFIX ?= /usr/local
CARGO_TARGET_DIR ?= $(CURDIR)/target
D4C_CACHE ?= /var/cache/d4c
export CARGO CARGO_TARGET_DIR D4C_CACHE
export PATH := $(PATH):$(HOME)/.cargo/bin

as_root := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=CARGO_TARGET_DIR,D4C_CACHE,D4C_DEBIAN_MIRROR)

.PHONY: help setup build check test fuzz-short bench demo install clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1	\2/p' Makefile | expand -t 12

setup: ## install every prerequisite (Debian 12 and 13, Ubuntu 24.04)
	@hack/setup.sh

build: ## the release binaries, in target/release
	$(CARGO) build --release -p d4c -p di3fs-snapshotter

check: ## formatting, lints, licences, scripts
	@hack/check.sh

test: ## everything: setup, build, unit tests, fuzz targets, integration tiers
	@hack/test.sh

fuzz-short: ## every fuzz target for a minute
	@hack/fuzz.sh 60

bench: ## sizes and times beside bsdiff, xdelta3 and zstd (BENCH=: its arguments, --help lists them)
	$(as_root) hack/images.sh all >/dev/null
	$(CARGO) run --release -p d4c-bench -- $(BENCH)

demo: ## Debian's nginx updated by a delta and run by containerd
	@hack/setup.sh demo
	$(CARGO) build --release -p d4c -p di3fs-snapshotter
	@$(as_root) hack/demo.sh

install: ## binaries, units, completions, man pages: PREFIX= DESTDIR=
	@hack/install.sh "$(CARGO_TARGET_DIR)/release" "$(PREFIX)" "$(DESTDIR)"

clean: ## what was built; the cache (D4C_CACHE) stays
	$(CARGO) clean
