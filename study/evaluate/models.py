"""Loads a trained model with what it needs to draw and to be measured."""

from typing import Any, NamedTuple

from study.stages.stage import value_digest

from study.train.checkpoints import load_checkpoint


class LoadedModel(NamedTuple):
    """A trained model with its tokenizer and device. The digest of weights, configuration and
    vocabulary stands for it in keys; the device does not count: its last bits differ, as those of
    two CPUs do."""

    model: Any
    tokenizer: Any
    device: Any
    digest: str

    @property
    def classes(self):
        """Classes whose code has to enter the key of a draw."""
        return type(self.model), type(self.tokenizer)


def load_model(root, name, tokenizer, device="cpu"):
    """The model of a checkpoint; ValueError if it is damaged or was made with another
    vocabulary."""
    model, checkpoint = load_checkpoint(root / f"checkpoints/{name}.pt", device)
    if checkpoint["tokenizer_digest"] != tokenizer.digest:
        raise ValueError(
            f"checkpoints/{name}.pt was trained with another vocabulary than data/tokenizer.pkl"
        )
    digest = value_digest([checkpoint["weights_digest"], checkpoint["config"], tokenizer.digest])
    return LoadedModel(model, tokenizer, device, digest)
