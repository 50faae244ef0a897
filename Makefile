# Everything that a developer or CI does. `make help` lists it.
#
# Two builds of the workspace exist and no third: cargo's debug build for tests,
# and the static one (e2e/images/fairway) for images, scenarios, demo and bench.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# === the product

.PHONY: demo
demo: ## the main job on a real cluster, narrated; leaves the cluster up
	@e2e/demo up

.PHONY: demo-down
demo-down: ## end what the demo left: the device, and the cluster if it made it
	@e2e/demo down

.PHONY: images
images: ## Fairway's static programs and their images, into target/images
	@e2e/images/fairway

.PHONY: bench
bench: ## speed beside plain haproxy chains; one `bench NAME VALUE UNIT` a line
	@bench/run

# === tests

.PHONY: test
test: lint unit e2e ## what CI runs

.PHONY: lint
lint: ## formatting, clippy, rustdoc, licences; shell scripts where shellcheck is there
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked --quiet
	.ci/licences
	@if git grep -n unsafe_code -- '*.rs' ':!daemon/src/heap.rs'; then echo "unsafe code outside daemon/src/heap.rs" >&2; exit 1; fi
	@if command -v shellcheck >/dev/null; then shellcheck $$(git grep -lE '^#!/usr/bin/env bash' -- ':!*.md'); fi

.PHONY: unit
unit: ## tests that need no cluster: unit, property, simulator, goldens
	@command -v helm >/dev/null || e2e/cluster/programs.sh helm
	cargo test --workspace --locked
	cd e2e/images/app && go vet ./... && go test ./...

.PHONY: e2e
e2e: ## scenarios on a real cluster; a cluster that was up stays up
	@e2e/run

.PHONY: fuzz
fuzz: ## every parser and state machine, FUZZ_SECONDS (60) each; libFuzzer on the stable compiler
	@fuzz/run

.PHONY: verify
verify: ## the protocol's models in verify/ by Verifpal, which is installed into your cache if it is missing
	@verify/run

.PHONY: deny
deny: ## cargo-deny in full, advisories too (cargo install cargo-deny --locked)
	cargo deny --locked check

# === things that are made

.PHONY: generate
generate: ## the CRDs' YAML from the Rust types; a test fails when it is stale
	cargo run --quiet --locked -p fairway-crds --bin crdgen
	cargo run --quiet --locked -p fairway-crds --bin crdgen charts/fairway-crds/files

.PHONY: cluster
cluster: ## a cluster of two nodes, kept until `make cluster-down`
	@e2e/cluster/cluster up
	@echo 'To use it:  eval "$$(e2e/cluster/cluster env)"'

.PHONY: cluster-down
cluster-down: ## delete it, and stop what it had started
	@e2e/cluster/cluster down
