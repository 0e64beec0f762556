# What there is to do. `make run` and `make test` are all that a first look takes.
#
# As root, each target installs what it needs (ci/install-packages); otherwise it says what is missing.

CARGO ?= cargo
N ?= 1000
T ?= 60
DESTDIR ?=
PREFIX ?= /usr

export CARGO_TERM_COLOR ?= auto

.PHONY: run check test bench torture fuzz vm packages install build lint

# The main job, shown: a service of its own, cgroups, limits, a set FD that travels, a holder that is killed.
run: build
	@tour/run

build:
	@$(CARGO) build --quiet

# Quick: what to run before a commit. Flow tests that take long are in `test` alone.
check: lint
	$(CARGO) test --quiet --lib --bins
	$(CARGO) test --quiet --test layering --test policy --test limits --test sets --test sessions \
		--test last_close --test delegation --test hostile_frames

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --quiet --all-targets -- -D warnings
	$(CARGO) doc --quiet --no-deps --document-private-items

# Everything that needs no special machine. Files in tests/ are picked up by themselves.
test: lint
	@ci/install-packages test
	@ci/install-packages vm
	$(CARGO) test --no-fail-fast
	ci/loom
	ci/instructions
	ci/fuzz 60
	ci/dependencies

# The benchmarks, printed as ratios. Those of the fast path make the README's table and docs/cost.svg, too.
bench:
	$(CARGO) bench --bench fast_path -- --write
	$(CARGO) bench --bench service --bench dbus --bench files --bench restart

# Kills and faults, N of them.
torture:
	@ci/install-packages test
	IOASID_TORTURE=$(N) $(CARGO) test --release --test torture -- --nocapture

# Every fuzz target for T seconds.
fuzz:
	ci/fuzz $(T)

# The tests that take a virtual machine of their own. FULL=1: also those that take a kernel with iommufd and devices
# with PASIDs, which are built and kept below target/vm (3 GB, 10 minutes, once).
vm:
	@ci/install-packages vm
	$(CARGO) test --test system -- --nocapture
	$(if $(FULL),$(CARGO) test --test system -- --nocapture --ignored --exact every_check_passes_with_iommufd)

# dist/*.deb and dist/*.rpm
packages:
	@ci/install-packages packages
	packaging/build

install:
	packaging/install "$(DESTDIR)" "$(PREFIX)"
