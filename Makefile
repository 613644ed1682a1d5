# make run: the whole pipeline on real music that ships with music21, in quick/.   make test: the tests.
# Both set up .venv first. Without make: the README lists the same as plain commands.

PYTHON ?= python3

.PHONY: run full study test test-faults clean-quick

run: .venv/installed  # SOURCE=openscore, or a folder of yours: other music
	@.venv/bin/python -m study.pipeline --quick $(if $(SOURCE),--source '$(SOURCE)')

full: .venv/installed  # the Lakh archive (about 17,000 files) at full size; a GPU helps
	@.venv/bin/python -m study.pipeline

study: .venv/installed  # the run that the README quotes, in hours, in study_run/; FAMILIES=transformer,lstm,ssm
	@.venv/bin/python -m study.full_study --publish $(if $(FAMILIES),--families $(FAMILIES))

test: .venv/installed-dev  # a file of tests is one process's, two of them at once, one thread each; not the longest last
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-faults: .venv/installed-dev  # every fault, many times: about an hour
	.venv/bin/python -m pytest -m "slow or faults" tests

clean-quick:
	rm -rf quick

.venv/installed: requirements.txt
	@test -x .venv/bin/python || $(PYTHON) -c "import study"  # says so if this Python is too old
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
