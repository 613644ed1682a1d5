"""Files of runs: a finished model (NAME.pt, NAME.json) and the state of an unfinished one
(.NAME.state and the one before it). Nothing here decides a number: a run's key does not follow this
file (`study/stages/code_key.py`)."""

import hashlib
import io
import os
import sys
from pathlib import Path

from study.stages.files import atomic, file_digest, read_json

import torch

from study.families import build_model

# of a checkpoint; 1: the same configuration meant another model (token shift by one token only)
FORMAT = 2
DIGEST_CHARS = 64  # of a SHA-256 in hexadecimal, at the start of a state


# ---------------------------------------------------------------- finished models


def weights_digest(weights):
    """SHA-256 over a state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checkpoint(path, weights, run, record):
    """Writes weights, configuration, tokenizer digest and record; readable with
    torch.load(weights_only=True)."""
    buffer = io.BytesIO()
    weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
    torch.save(
        {
            "format": FORMAT,
            "config": run["config"],
            "tokenizer_digest": run["tokenizer_digest"],
            "model": weights,
            "weights_digest": weights_digest(weights),
            "record": record,
        },
        buffer,
    )
    with atomic(path, "wb") as file:
        file.write(buffer.getbuffer())


def load_checkpoint(path, device="cpu"):
    """(model in evaluation mode, checkpoint: dict with "config", "tokenizer_digest", "record");
    ValueError if the file is damaged or no checkpoint of this project. Nothing in the file is
    executed."""
    path = Path(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        weights = checkpoint.pop("model")
        if checkpoint["format"] != FORMAT:
            raise ValueError("it was made by another version of this project: train it again")
        if weights_digest(weights) != checkpoint["weights_digest"]:
            raise ValueError("its weights do not have the digest recorded with them")
        model = build_model(checkpoint["config"])
        model.load_state_dict(weights)
    except FileNotFoundError:
        raise ValueError(f"{path.name} does not exist") from None
    except Exception as error:  # torch.load raises many kinds on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path.name} is damaged or no checkpoint of this project: {reason}"
        ) from None
    return model.to(device).eval(), checkpoint


def tokenizer_path(root, name):
    """The vocabulary of a model's checkpoint: its own where fine-tuning made it grow, else that of
    the root."""
    own = Path(root) / f"checkpoints/{name}.tokenizer.pkl"
    return own if own.exists() else Path(root) / "data/tokenizer.pkl"


def finished(root, run):
    """The record of this very run (a plan with "name" and "key") if it is complete on disk, else
    None."""
    record = read_json(Path(root) / f"checkpoints/{run['name']}.json")
    path = Path(root) / f"checkpoints/{run['name']}.pt"
    complete = (
        isinstance(record, dict)
        and record.get("key") == run["key"]
        and path.exists()
        and file_digest(path) == record.get("checkpoint_sha256")
    )
    return record if complete else None


# ---------------------------------------------------------------- unfinished runs


def state_paths(folder, name):
    """(newest state, the one before it) of a run in a folder."""
    return folder / f".{name}.state", folder / f".{name}.state.before"


def save_state(folder, name, state):
    """Writes an unfinished run's state: SHA-256 (64 hexadecimal digits), then what torch.save
    makes. The state before
    it is kept: at every moment there is a complete one on disk."""
    newest, before = state_paths(folder, name)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    new = folder / f".{name}.state.new"
    with atomic(new, "wb") as file:
        file.write(hashlib.sha256(buffer.getbuffer()).hexdigest().encode())
        file.write(buffer.getbuffer())
    if newest.exists():
        os.replace(newest, before)
    os.replace(new, newest)


def load_state(folder, name, key):
    """The newest intact state of the run with this key, or None; says so on stderr if a damaged one
    is passed over."""
    for path in state_paths(folder, name):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        digest, saved = content[:DIGEST_CHARS], content[DIGEST_CHARS:]
        if hashlib.sha256(saved).hexdigest().encode() != digest:
            print(f"{name}: {path.name} is damaged, it is not used", file=sys.stderr)
            continue
        state = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
        if state["key"] == key:
            return state
    return None


def remove_state(folder, name):
    """Deletes the state of a run that is finished."""
    for path in (*state_paths(folder, name), folder / f".{name}.state.new"):
        path.unlink(missing_ok=True)
