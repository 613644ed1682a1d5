"""Stages killed at random moments and run again: the outputs are those of an undisturbed run, byte for byte."""

import importlib
import random
import signal
import subprocess
import time

import pytest
from fault_roots import SINGLE_THREAD, STAGES, command, outputs, run_stage

pytestmark = pytest.mark.faults


def interrupted(name, root_for, how, n_times, seed, same=outputs):
    """Kills `name` n_times while it runs, at random moments, each time in a fresh root or in the one that the last kill left."""
    chance = random.Random(f"{name} {how} {seed}")
    reference = root_for(name)
    began = time.monotonic()
    run_stage(name, reference)
    seconds, expected = time.monotonic() - began, same(reference)
    root, killed, tries = root_for(name), 0, 0
    while killed < n_times and tries < 5 * n_times:
        tries, began = tries + 1, time.monotonic()
        child = subprocess.Popen(command(name, root), env=SINGLE_THREAD, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)
        time.sleep(chance.uniform(0.05, 1.05 * seconds))
        child.send_signal(how)
        error = child.communicate(timeout=60 + 20 * seconds)[1]
        assert how == signal.SIGKILL or "Traceback" not in error, error
        killed += child.returncode != 0
        if child.returncode == 0:  # it was faster than the signal
            seconds = min(seconds, time.monotonic() - began)
        if child.returncode and how != signal.SIGKILL:
            assert child.returncode in (128 + how, -how), error  # -how: before the script could say anything
        if chance.random() < 0.6 or child.returncode == 0:
            run_stage(name, root)
            assert same(root) == expected
            if STAGES.index(name) < 6:
                assert not list(root.rglob("*.running.json"))
            root = root_for(name)
    run_stage(name, root)
    assert same(root) == expected
    return killed


@pytest.mark.parametrize("name", STAGES[:3])
@pytest.mark.parametrize("how, n_times", [
    (signal.SIGKILL, 2), (signal.SIGTERM, 1), pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow),
    pytest.param(signal.SIGKILL, 30, marks=pytest.mark.slow),
    pytest.param(signal.SIGTERM, 10, marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, 10, marks=pytest.mark.slow),
])
def test_data_stages(name, how, n_times, root_for):
    interrupted(name, root_for, how, n_times, seed=n_times)


def weights_and_text(root):
    """What does not measure the clock: weights of checkpoints, tunes, tokens; no records, reports and curves."""
    torch = importlib.import_module("torch")
    keep = (".abc", ".txt", ".npy", ".pkl", ".tsv", ".mid")
    found = {name: digest for name, digest in outputs(root).items() if name.endswith(keep)}
    return found | {str(path.relative_to(root)): torch.load(path, weights_only=True)["weights_digest"]
                    for path in root.rglob("*.pt")}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES[3:])
@pytest.mark.parametrize("how, n_times", [(signal.SIGKILL, 30), (signal.SIGTERM, 10), (signal.SIGINT, 10)])
def test_model_stages(name, how, n_times, root_for):
    interrupted(name, root_for, how, n_times, seed=n_times, same=weights_and_text)


def test_the_next_stage_refuses_half_made_input(root_for):
    """01 dies while it replaces one corpus by another; 02 does not take what it finds."""
    root = root_for("02_midi_to_abc")
    seconds = 0.2
    while True:
        child = subprocess.Popen(command("01_download", root, "--force"), env=SINGLE_THREAD,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        child.kill()
        if child.wait() == 0:
            pytest.skip("the stage was faster than every kill")
        if (root / "data/01_download.running.json").exists():
            break
        seconds += 0.05
    assert "unfinished" in run_stage("02_midi_to_abc", root, code=1)
    run_stage("01_download", root)
    run_stage("02_midi_to_abc", root)
