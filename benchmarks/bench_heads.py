"""Which heads copy, and when do they form? Knock-outs of every head, and one training watched.

Reads:  ROOT/data (stage 03), ROOT/checkpoints/transformer_* (stage 04)
Writes: OUT/heads.csv, a row for each model and set of heads that was knocked out; with --when also
        OUT/when.csv, a row for every 20 steps of one training
Run:    python -m benchmarks.bench_heads --root study_run --out docs/study
        python -m benchmarks.bench_heads --root study_run --out docs/study --when small:2,d128:2
Prints what each model saves on repeated bars with all heads, and without the best one.

A head is set to zero, or to its mean over the text. The scores follow Olsson et al. 2022 (induction
heads): *prefix matching*, how much attention goes to the tokens after an earlier occurrence of the
newest ones; *copying*, how much the head then raises the logit of the token that followed there.
"""

import argparse
import contextlib
import importlib
import itertools
from pathlib import Path

import torch

from study.stages.arguments import list_of
from study.stages.files import read_json, write_text
from study.stages.process import progress

from common import load_tokenizer
from study.evaluate import heads as knock
from study.evaluate.induction import costs_of_bars, read_tunes, repeats_of
from study.evaluate.models import LoadedModel, load_model
from study.fit.records import csv_text
from study.train.data import load_data
from study.train.ladder import LADDER, rule_rate
from study.train.loop import Loop
from study.train.runs import RunSpec, plan_run

EVERY = 20  # steps
PAIRS_OF = 4  # heads: those whose loss costs most of the saving
SCORED_TUNES = 24  # read for the scores, the longest: 2,000 places that match
COSTS = ("first", "second", "saved", "saved_se", "later", "similar", "fresh", "new", "saved_near")
COSTS += ("saved_far", "bits_per_char")
SCORES = (*(f"attention_{k}" for k in knock.OFFSETS), "even", "copying")
COLUMNS = ("name", "params_total", "seed", "chars_seen", "val_nats_per_char", "way", "heads")


def flat(row):
    """The costs and scores of a row of `heads.without`, rounded; heads as `layer.head` from 1."""
    heads = " ".join(f"{layer + 1}.{head + 1}" for layer, head in row["heads"])
    scores = dict(zip(SCORES, row.get("attention") or [None] * len(knock.OFFSETS)))
    scores |= {key: row.get(key) for key in ("even", "copying")}
    numbers = {**{key: row[key] for key in COSTS}, **scores}
    rounded = {key: None if n is None else round(float(n), 4) for key, n in numbers.items()}
    return {"heads": heads or "none", **rounded}


def mean_outputs(model, tunes, device="cpu"):
    """The mean output of every layer's heads over the places of tunes: [(d_model,)]."""
    sums, counts = [0.0] * len(model.blocks), [0] * len(model.blocks)

    def watch(layer):
        def hook(module, inputs):
            sums[layer] = sums[layer] + inputs[0].double().sum((0, 1)).cpu()
            counts[layer] += inputs[0].shape[0] * inputs[0].shape[1]

        return hook

    hooks = [
        block.attention_out.register_forward_pre_hook(watch(layer))
        for layer, block in enumerate(model.blocks)
    ]
    with torch.inference_mode():
        for tune in tunes:  # one by one: nothing that fills up counts
            model(torch.as_tensor(tune.tokens[None, :-1], device=device))
    for hook in hooks:
        hook.remove()
    return [(total / n).float() for total, n in zip(sums, counts)]


@contextlib.contextmanager
def at_its_mean(model, head, means):
    """Sets a head's output to its mean, of `mean_outputs`, as long as the context lasts."""
    layer, number = head
    block = model.blocks[layer]
    width = block.attention_out.in_features // block.n_head
    columns = slice(number * width, (number + 1) * width)

    def hook(module, inputs):
        y = inputs[0].clone()
        y[..., columns] = means[layer][columns].to(y)
        return y

    with block.attention_out.register_forward_pre_hook(hook):
        yield


def scores(loaded, tunes):
    """{(layer, head): {"attention": mean weight at each of `heads.OFFSETS` after a match, "even": the same
    of even attention, "copying": nats by which the head alone raises the logit of what followed
    the match over the mean of all tokens}}; Nones where nothing matches.

    The logit is that of the direct path, from the head's output through the model's last norm.
    """
    model, totals, even, n = loaded.model, 0.0, 0.0, 0
    longest = sorted(tunes, key=lambda tune: -len(tune.tokens))[:SCORED_TUNES]
    for tune in longest:
        tokens = tune.tokens[:-1]
        now, then = knock.matches(tokens)
        if len(now):
            weights, raised = _read(loaded, tokens, now, tokens[then + 1])
            at = torch.as_tensor(then)[:, None] + torch.tensor(knock.OFFSETS)
            looked = weights[:, :, torch.as_tensor(now)[:, None], at].sum(
                2
            )  # layers, heads, offsets
            totals = totals + torch.cat((looked, raised[..., None]), dim=2)
            even, n = even + float((1 / (now + 1)).sum()), n + len(now)
    rows = {}
    for layer, head in knock.all_heads(model):
        means = (totals[layer, head] / n).tolist() if n else [None] * (len(knock.OFFSETS) + 1)
        rows[layer, head] = {
            "attention": means[:-1],
            "even": even / n if n else None,
            "copying": means[-1],
        }
    return rows


@torch.inference_mode()
def _read(loaded, tokens, now, followed):
    """(attention weights (layers, heads, T, T) of a text, raised logits (layers, heads) summed
    over the places `now`)."""
    model, inputs = loaded.model, []
    hooks = [
        block.attention_out.register_forward_pre_hook(lambda module, x: inputs.append(x[0][0, now]))
        for block in model.blocks
    ]
    last = []
    hooks.append(model.norm.register_forward_pre_hook(lambda module, x: last.append(x[0][0, now])))
    weights = torch.stack(knock.attention_weights(model, torch.as_tensor(tokens)))
    for hook in hooks:
        hook.remove()
    eps = torch.finfo(last[0].dtype).eps
    scale = last[0].pow(2).mean(-1, keepdim=True).add(eps).rsqrt() * model.norm.weight
    followed = torch.as_tensor(followed, device=scale.device)
    raised = []
    for block, y in zip(model.blocks, inputs):
        size = y.shape[1] // block.n_head
        for head in range(block.n_head):
            columns = slice(head * size, (head + 1) * size)
            out = y[:, columns] @ block.attention_out.weight[:, columns].T
            logits = model.head(out * scale)
            raised.append(logits.gather(1, followed[:, None]).sum() - logits.mean(1).sum())
    return weights, torch.stack(raised).view(len(model.blocks), -1).cpu()


def knock_all(loaded, tokens):
    """Rows of a model: all heads on, each off by zero and by its mean, pairs of the best four."""
    tunes = read_tunes(loaded, tokens)
    scored = scores(loaded, tunes)
    means = mean_outputs(loaded.model, tunes)
    rows = [{"way": "none", **flat(knock.without(loaded, tunes, []))}]
    ranked = []
    for head in progress(knock.all_heads(loaded.model), desc="heads", unit="head"):
        zero = knock.without(loaded, tunes, [head])
        with at_its_mean(loaded.model, head, means):
            mean = {**knock.without(loaded, tunes, []), "heads": zero["heads"]}
        for way, row in (("zero", zero), ("mean", mean)):
            rows.append({"way": way, **flat({**row, **scored[head]})})
        ranked.append((zero["saved"], head))
    if len(ranked) > 4:
        best = [head for _, head in sorted(ranked)[:PAIRS_OF]]
        worst = [head for _, head in sorted(ranked)[PAIRS_OF:]]
        for few in (best, worst[:PAIRS_OF]):
            for pair in itertools.combinations(few, 2):
                rows.append({"way": "zero", **flat(knock.without(loaded, tunes, pair))})
    return rows


def watch(data, tokenizer, size, seed):
    """Rows of one training, every EVERY steps: costs of bars, and the scores and knock-out of the
    head that copies at its end."""
    stage = importlib.import_module("04_train_transformers")
    if size in LADDER:
        shape, rate, suite = LADDER[size], rule_rate(stage.LADDER_RATE, size), "ladder"
    else:
        shape, rate, suite = stage.SIZES[size], stage.LEARNING_RATES["muon"][size], "classical"
    run = plan_run(data, RunSpec("transformer", size, shape, rate, seed=seed, suite=suite))
    loop, states = Loop(run, data, "cpu"), {}
    while not loop.ended:
        loop.advance()
        if loop.state.step % EVERY == 0 or loop.ended:
            weights = loop.model.state_dict()
            states[loop.state.step] = {name: w.clone() for name, w in weights.items()}
    model = loop.model.eval()
    return watched(LoadedModel(model, tokenizer, "cpu", ""), states, run, data.val)


def watched(loaded, states, run, tokens):
    """The rows of `watch` from the weights after each step."""
    tunes, rows = read_tunes(loaded, tokens), []
    loaded.model.load_state_dict(states[max(states)])
    singles = {
        head: knock.without(loaded, tunes, [head])["saved"]
        for head in knock.all_heads(loaded.model)
    }
    best = min(singles, key=singles.get)
    for step, weights in progress(states.items(), len(states), "watched", "step"):
        loaded.model.load_state_dict(weights)
        whole = repeats_of(costs_of_bars(loaded, tunes))
        off = knock.without(loaded, tunes, [best])
        row = {**whole, "heads": [best], **scores(loaded, tunes)[best]}
        rows.append(
            {
                "size": run["size"],
                "seed": run["seed"],
                "step": step,
                "chars": step * run["tokens_per_step"],
                **flat(row),
                "saved_without": round(float(off["saved"]), 4),
            }
        )
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", type=list_of(str), metavar="NAME[,NAME]")
    parser.add_argument("--when", type=list_of(str), metavar="SIZE:SEED[,SIZE:SEED]")
    args = parser.parse_args(argv)
    data, tokenizer = load_data(args.root), load_tokenizer(args.root / "data/tokenizer.pkl")
    if args.when:
        rows = []
        for size, seed in (what.split(":") for what in args.when):
            rows += watch(data, tokenizer, size, int(seed))
            write_text(args.out / "when.csv", csv_text(rows, list(rows[0])))
        return
    rows = []
    names = args.only or sorted(
        path.stem for path in (args.root / "checkpoints").glob("transformer_*.pt")
    )
    for name in names:
        loaded = load_model(args.root, name, tokenizer)
        record = read_json(args.root / f"checkpoints/{name}.json")
        found = knock_all(loaded, data.val)
        rows += [{**{key: record.get(key) for key in COLUMNS[:5]}, **row} for row in found]
        singles = [row for row in found if row["way"] == "zero" and " " not in row["heads"]]
        best = min(singles, key=lambda row: row["saved"])
        print(
            f"{name}: saved {found[0]['saved']:.3f}, without {best['heads']} {best['saved']:.3f}",
            flush=True,
        )
        write_text(args.out / "heads.csv", csv_text(rows, [*COLUMNS, *COSTS, *SCORES]))


if __name__ == "__main__":
    main()
