# Everything a newcomer or a machine types. Each target may be interrupted and repeated.
VENV := .venv/bin
export PATH := $(CURDIR)/$(VENV):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup venv demo test check machine-tests machines crash bench bench-machines man clean

help:
	@echo "make demo    set this machine up, build the example, boot it, fetch its page"
	@echo "make test    set this machine up, run the tests, those that boot machines included"
	@echo "make check   the fast tests and linters: no root, no virtual machine, some three minutes"
	@echo "make machines  every test that boots machines, those too that take many boots"
	@echo "make crash   kill, refuse and cut off from power every step of store and machine; needs ../shared, root, an hour"
	@echo "make bench   measure keelboot beside other tools; BENCH=--quick for less, BENCH=--help for more"
	@echo "make bench-machines  measure boots, upgrades and status of machines in QEMU"
	@echo "make setup   install what is missing: system packages and .venv"
	@echo "make man     manual pages, in build/man"
	@echo "make clean   remove what these made in this directory"

setup:
	@tools/setup

venv:
	@tools/setup --venv

demo: setup
	@$(VENV)/python examples/web/demo.py

check: venv
	@$(VENV)/pytest -q -n auto -m "not machine"

# Against registries they mostly wait, and may do that together; machines get the computer for themselves.
machine-tests: setup
	@$(VENV)/pytest -q -n 4 --dist loadgroup -m "machine and not long" tests/against
	@$(VENV)/pytest -m "machine and not long" --ignore=tests/against

machines: setup
	@$(VENV)/pytest -m machine

test: setup
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory machine-tests

crash: setup
	@PYTHONPATH=tests $(VENV)/python tests/crash/campaign.py $(CRASH)

bench: venv
	@$(VENV)/python benchmarks/bench.py $(BENCH)

bench-machines: setup
	@$(VENV)/python benchmarks/machines.py $(BENCH)

man: venv
	@mkdir -p build/man
	@$(VENV)/argparse-manpage --module keelboot.cli.main --function parser --prog keelboot \
		--project-name keelboot --manual-title keelboot --description "from a Containerfile to a machine that boots" \
		--output build/man/keelboot.1
	@echo "build/man/keelboot.1"

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis
