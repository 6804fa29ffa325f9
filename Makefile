# make demo | test | test-mysql | test-older | accuracy | bench | soak | lint | clean. Each makes its environment
# first, when it is not there.
# Another Python than the one that scripts/find-python finds: make test PYTHON=/path/to/python

# make on macOS is 3.81: nothing newer here. "exec" lets a signal to make reach the program itself.
SHELL = /bin/sh
ENVIRONMENT = PYTHON="$(PYTHON)" scripts/environment

.PHONY: help demo test test-mysql test-older accuracy play bench soak lint clean

help:
	@echo "make demo        run the example shop, let it leak, and show what otel-connleak says (under a minute)"
	@echo "make test        run the whole test suite, with a real PostgreSQL, and a real MariaDB where there is one"
	@echo "make test-mysql  run the tests of the MySQL drivers; fails where there is no MariaDB"
	@echo "make test-older  run the tests of SQLAlchemy and Django on the older versions that are still in use"
	@echo "make accuracy    play the labelled corpus on Python 3.12 and 3.13: what is found, missed, blamed, and when"
	@echo "make bench       measure the cost; fails when it is over the limits"
	@echo "make soak        ten minutes at full speed: memory flat, reports exact (ARGS=\"--minutes 1\" for less)"
	@echo "make lint        ruff and mypy"
	@echo "make clean       remove the environments and caches"
	@echo "PYTHON=/path/to/python chooses the Python (3.12 or newer), ARGS=... adds arguments to the program that is run"

demo:
	@python=$$($(ENVIRONMENT) demo) && exec "$$python" -m examples.demo $(ARGS)

# Most of the time a test waits for something that must not happen: three at a time are no burden for two cores.
# ARGS="-n 0" runs one after the other, for a debugger.
PYTEST = -m pytest -n 3 --dist loadgroup

test:
	@python=$$($(ENVIRONMENT) test,dev) && exec "$$python" $(PYTEST) $(ARGS)

# The C extension of mysql-connector-python needs the OpenSSL that it brings along to be found before an older one.
test-mysql:
	@python=$$($(ENVIRONMENT) test,dev) && vendor=$$("$$python" -c 'import mysql; print(*mysql.__path__)')/vendor && \
		exec env CONNLEAK_MYSQL=required LD_LIBRARY_PATH="$$vendor$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}" \
		"$$python" $(PYTEST) tests/adapters/test_*mysql*.py $(ARGS)

# Beside the environment's own versions, found before them.
OLDER = SQLAlchemy==2.0.58 Django==5.2.19

test-older:
	@python=$$($(ENVIRONMENT) test,dev) && older="$${python%/bin/*}/older" && \
		{ [ -d "$$older" ] || { rm -rf "$$older.part" && \
		"$$python" -m pip install --quiet --no-deps --target "$$older.part" $(OLDER) >&2 && mv "$$older.part" "$$older"; }; } && \
		PYTHONPATH="$$older" exec "$$python" $(PYTEST) tests/adapters/test_sqlalchemy*.py tests/adapters/test_django*.py \
		tests/test_django_gunicorn.py tests/frameworks/test_fastapi.py tests/frameworks/test_flask.py $(ARGS)

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
