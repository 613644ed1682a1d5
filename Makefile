# make run: the whole pipeline on real music that ships with music21, in quick/.   make test: the tests.
# Both set up .venv first. Without make: the README lists the same as plain commands.

PYTHON ?= python3
STAGES = 01_download 02_midi_to_abc 03_tokenize_split 04_train_transformers 05_train_lstms \
         06_fit_scaling 07_train_best_and_generate

.PHONY: run full test test-faults clean-quick

run: .venv/installed
	@set -e; for stage in $(STAGES); do .venv/bin/python $$stage.py --quick; done
	@.venv/bin/python 07_train_best_and_generate.py --quick --headline

full: .venv/installed  # the Lakh archive (about 17,000 files) at full size; a GPU helps
	@set -e; for stage in $(STAGES); do .venv/bin/python $$stage.py; done
	@.venv/bin/python 07_train_best_and_generate.py --headline

test: .venv/installed-dev
	.venv/bin/python -m pytest

test-faults: .venv/installed-dev  # every fault, many times: about an hour
	.venv/bin/python -m pytest -m "slow or faults" tests

clean-quick:
	rm -rf quick

.venv/installed: requirements.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
