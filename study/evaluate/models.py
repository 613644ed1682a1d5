"""Loads trained models."""

from typing import Any, NamedTuple

from study.stages.code_key import HERE
from study.stages.files import value_digest

from common import load_tokenizer
from study.train.checkpoints import load_checkpoint, tokenizer_path

STUDY = "study"  # name of the model that ships; see MODEL_CARD.md beside it
STUDY_RECORD = {"size": "medium", "recipe": "tuned"}  # what its file does not say


class LoadedModel(NamedTuple):
    """A trained model. The digest of weights, configuration and vocabulary stands for it in keys;
    the device does not count: its last bits differ, as those of two CPUs do."""

    model: Any
    tokenizer: Any
    device: Any
    digest: str
    record: dict = {}

    @property
    def classes(self):
        """Classes whose code has to enter the key of a draw."""
        return type(self.model), type(self.tokenizer)


def open_model(root, name, device="cpu"):
    """Loads a model of a root's checkpoints, or STUDY, with its own vocabulary; ValueError names
    those that are there."""
    if name == STUDY:
        path = HERE / "docs/study/best_model.pt"
        loaded = _loaded(path, load_tokenizer(path.with_suffix(".tokenizer.pkl")), device)
        return loaded._replace(record=STUDY_RECORD | loaded.record)
    if not (root / f"checkpoints/{name}.pt").exists():
        have = sorted(path.stem for path in (root / "checkpoints").glob("*.pt"))
        raise ValueError(
            f"there is no checkpoints/{name}.pt; there are: {', '.join([*have, STUDY])} (the model"
            " that ships)"
        )
    return load_model(root, name, load_tokenizer(tokenizer_path(root, name)), device)


def load_model(root, name, tokenizer, device="cpu"):
    """Loads the model of a checkpoint; ValueError if it is damaged or has another vocabulary."""
    return _loaded(root / f"checkpoints/{name}.pt", tokenizer, device)


def _loaded(path, tokenizer, device):
    model, checkpoint = load_checkpoint(path, device)
    if checkpoint["tokenizer_digest"] != tokenizer.digest:
        raise ValueError(
            f"checkpoints/{path.name} was trained with another vocabulary than data/tokenizer.pkl"
        )
    digest = value_digest([checkpoint["weights_digest"], checkpoint["config"], tokenizer.digest])
    return LoadedModel(model, tokenizer, device, digest, checkpoint["record"])
