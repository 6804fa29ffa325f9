# make demo | test | accuracy | bench | soak | lint | clean. Each makes its environment first, when it is not there.
# Another Python than the one that scripts/find-python finds: make test PYTHON=/path/to/python

# make on macOS is 3.81: nothing newer here. "exec" lets a signal to make reach the program itself.
SHELL = /bin/sh
ENVIRONMENT = PYTHON="$(PYTHON)" scripts/environment

.PHONY: help demo test accuracy play bench soak lint clean

help:
	@echo "make demo      run the example shop, let it leak, and show what otel-connleak says (under a minute)"
	@echo "make test      run the whole test suite, with a real PostgreSQL"
	@echo "make accuracy  play the labelled corpus on Python 3.12 and 3.13: what is found, missed, blamed, and when"
	@echo "make bench     measure the cost; fails when it is over the limits"
	@echo "make soak      ten minutes at full speed: memory flat, reports exact (ARGS=\"--minutes 1\" for less)"
	@echo "make lint      ruff and mypy"
	@echo "make clean     remove the environments and caches"
	@echo "PYTHON=/path/to/python chooses the Python (3.12 or newer), ARGS=... adds arguments to the program that is run"

demo:
	@python=$$($(ENVIRONMENT) demo) && exec "$$python" -m examples.demo $(ARGS)

test:
	@python=$$($(ENVIRONMENT) test,dev) && exec "$$python" -m pytest $(ARGS)

accuracy:
	@scripts/each-python "$(PYTHON)" "$(MAKE)" --no-print-directory play ARGS='$(ARGS)'

# The corpus on one Python.
play:
	@python=$$($(ENVIRONMENT) test,dev) && exec "$$python" -m tests.corpus $(ARGS)

bench:
	@python=$$($(ENVIRONMENT) test,dev) && exec "$$python" -m bench $(ARGS)

soak:
	@python=$$($(ENVIRONMENT) test,dev) && exec "$$python" -m bench.soak $(ARGS)

lint:
	@python=$$($(ENVIRONMENT) test,dev) && "$$python" -m ruff check . && "$$python" -m ruff format --check . && \
		exec "$$python" -m mypy

clean:
	rm -rf .venv-* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
