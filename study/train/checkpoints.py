"""Files of runs: a finished model (NAME.pt, NAME.json) and the state of an unfinished one
(.NAME.state). Nothing here decides a number: no key follows this file."""

import hashlib
import io
import sys
from pathlib import Path

from study.stages.files import file_digest, read_json, write_bytes

import torch

from study.families import build_model


def weights_digest(weights):
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checkpoint(path, weights, run, record):
    """Writes weights, configuration, tokenizer digest and record."""
    weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
    checkpoint = {
        "config": run["config"],
        "tokenizer_digest": run["tokenizer_digest"],
        "model": weights,
        "weights_digest": weights_digest(weights),
        "record": record,
    }
    write_bytes(path, _bytes_of(checkpoint))


def _bytes_of(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def load_checkpoint(path, device="cpu"):
    """Returns (model in evaluation mode, what stands beside its weights); ValueError if the file is
    damaged. Nothing in it is executed."""
    path = Path(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        weights = checkpoint.pop("model")
        if weights_digest(weights) != checkpoint["weights_digest"]:
            raise ValueError("its weights do not have the digest recorded with them")
        model = build_model(checkpoint["config"])
        model.load_state_dict(weights)
    except FileNotFoundError:
        raise ValueError(f"{path.name} does not exist") from None
    except Exception as error:  # of many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        problem = f"{path.name} is damaged or no checkpoint of this project"
        raise ValueError(f"{problem}: {reason}") from None
    return model.to(device).eval(), checkpoint


def tokenizer_path(root, name):
    """Returns where a model's vocabulary is: beside a fine-tuned one, else in data/."""
    own = Path(root) / f"checkpoints/{name}.tokenizer.pkl"
    return own if own.exists() else Path(root) / "data/tokenizer.pkl"


def finished(root, run):
    """Returns the record of this very plan if it is complete on disk, else None."""
    path = Path(root) / f"checkpoints/{run['name']}.pt"
    record = read_json(path.with_suffix(".json"))
    if not isinstance(record, dict) or record.get("key") != run["key"] or not path.exists():
        return None
    return record if file_digest(path) == record.get("checkpoint_sha256") else None


def state_path(folder, name):
    return folder / f".{name}.state"


def save_state(folder, name, state):
    """Writes an unfinished run's state: its SHA-256 (hexadecimal), then torch's bytes."""
    content = _bytes_of(state)
    write_bytes(state_path(folder, name), hashlib.sha256(content).hexdigest().encode() + content)


def load_state(folder, name, key):
    """Returns the state of the run with this key, or None; says so if it is damaged."""
    try:
        content = state_path(folder, name).read_bytes()
    except FileNotFoundError:
        return None
    digest, saved = content[:64], content[64:]
    if hashlib.sha256(saved).hexdigest().encode() != digest:
        print(f"{name}: its saved state is damaged, it begins anew", file=sys.stderr)
        return None
    state = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
    return state if state.pop("key") == key else None


def remove_state(folder, name):
    state_path(folder, name).unlink(missing_ok=True)
