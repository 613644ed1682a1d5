"""What is said of the second corpus can be computed again from the rows that ship."""

import json
import shutil

from benchmarks import second_corpus
from study.stages.code_key import HERE


def test_the_comparison_is_recomputed_from_the_rows_that_ship(tmp_path, monkeypatch):
    shutil.copytree(HERE / "docs/study", tmp_path / "study")
    shipped = json.loads((HERE / "docs/study/second_corpus.json").read_text("utf-8"))
    monkeypatch.setattr(second_corpus, "STUDY", tmp_path / "study")
    made = second_corpus.compare(None)["came"]
    assert made["runs"] == shipped["came"]["runs"]
    for name in ("alpha", "beta", "kappa"):
        assert abs(made[name]["value"] - shipped["came"][name]["value"]) < 1e-3
