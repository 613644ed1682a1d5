"""The page: what it shows, what it does not let in, and what a browser makes of it."""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from test_notation import HOSTILE, JIG, OVERFULL, RANDOM, RESTS, TWO_VOICES

from music.abc_text import check_abc
from study.evaluate.samples import write_pictures
from study.report import attention, words
from study.report import page as report

MIDI = bytes.fromhex("4d546864000000060000000100604d54726b0000000c00903c4060803c4000ff2f00")
FIGURE = (
    '<?xml version="1.0"?><!DOCTYPE svg><svg xmlns="http://www.w3.org/2000/svg"'
    ' xmlns:xlink="http://www.w3.org/1999/xlink" width="432pt" height="288pt" viewBox="0 0 432'
    ' 288"><metadata><a'
    ' href="http://example.org/">x</a></metadata><script>alert(2)</script><style>*{fill:red}</style><defs><path'
    ' id="dot" d="M 0.123456 1.987654 L 10 10"/></defs><rect width="432" height="288" style="fill:'
    ' #ffffff"/><g id="axes" onclick="alert(3)"><use xlink:href="#dot" x="10.55555" style="stroke:'
    ' #000000"/><path d="M 20 250 L 400 40" style="stroke: #3366aa; fill: none; stroke-width:'
    ' 2"/><image href="http://example.org/x.png"/><path d="M0 0"'
    ' style="fill:url(http://example.org/)"/><text x="20" y="270">loss &lt; 2</text></g></svg>'
)


def make_root(root):
    """A root with everything that the page can show, from little tunes of our own."""
    outputs, rng = root / "part4_outputs", np.random.default_rng(0)
    generated = outputs / "generated"
    generated.mkdir(parents=True)
    (outputs / "figures").mkdir()
    samples = []
    for i, text in enumerate(
        [TWO_VOICES, JIG, OVERFULL, HOSTILE, RESTS, RANDOM, TWO_VOICES, JIG, JIG, OVERFULL]
    ):
        check = check_abc(text)._asdict()
        stem = f"sample_{i:03d}"
        (generated / f"{stem}.abc").write_text(text)
        (generated / f"{stem}.mid").write_bytes(MIDI)
        prompt = text[: text.index("|", text.index("K:")) + 1] if i % 3 == 1 else ""
        pictures = write_pictures(generated, stem, text, len(prompt))
        samples.append(
            {
                "index": i,
                "file": f"{stem}.abc",
                "text": text,
                "type": "bars" if prompt else "unconditional",
                "prompt": prompt,
                "temperature": 0.9,
                "top_k": 0,
                "top_p": 0.95,
                "min_p": 0.0,
                "seed": i,
                "stop_reason": "end",
                "validity": check,
                "pictures": pictures,
                "novelty": {"longest_copied_chars": 31, "copied_share": 0.0},
                "surprisal_bits": [round(float(x), 2) for x in rng.exponential(1.2, len(text))],
            }
        )
    (generated / "metadata.json").write_text(json.dumps({"samples": samples}))
    for name in ("scaling", "curves", "skills", "odd<name"):
        (outputs / "figures" / f"{name}.svg").write_text(FIGURE)
    ladder = [
        {
            "name": name,
            "kind": kind,
            "n": 100,
            "rate": rates[3],
            "interval": [0.0, 1.0],
            "bar_accuracy": bars,
            "level_rates": dict(zip(("header", "tokens", "content", "meter", "aligned"), rates)),
            "abc2midi_clean_rate": rates[4],
        }
        for name, kind, rates, bars in (
            ("real music", "real", [1, 1, 1, 0.99, 0.97], 1.0),
            ("8-gram", "ngram", [0.9, 0.3, 0.3, 0, 0], 0.4),
            ("best model", "model", [0.98, 0.9, 0.85, 0.62, 0.6], 0.94),
            ("random <b>", "random", [1, 0, 0, 0, 0], 0.05),
        )
    ]
    plans = [
        {
            "family": "transformer",
            "size": size,
            "epochs": 4,
            "windows": 8,
            "minutes": 4.5,
            "val_nats_per_char": loss,
        }
        for size, loss in (("tiny", 0.91), ("small", 0.79))
    ]
    (outputs / "RESULTS.json").write_text(
        json.dumps(
            {
                "quick": True,
                "environment": {"python": "3.11", "torch": "2.13.0"},
                "headline": {
                    "strongest_baseline": {"name": "ppmd", "test_bits_per_char": 1.553},
                    "warnings": [
                        {
                            "model": "<b>tiny</b>",
                            "split": "test",
                            "mark": "ppmd",
                            "measure": "bits per character",
                            "model_value": 1.9,
                            "mark_value": 1.553,
                            "model_train_chars": 300_000,
                            "mark_train_chars": 1_350_000,
                        }
                    ],
                },
                "runs": [
                    {
                        "name": "transformer_tiny",
                        "params_total": 137536,
                        "val_nats_per_char": 1.25,
                        "train_flops": 1e12,
                        "family": "transformer",
                    }
                ],
                "music": {
                    "unprompted": {
                        "n": 100,
                        "metrics": {"bar_repetition": {"generated_mean": 0.2, "real_mean": 0.33}},
                        "jsd": {"duration": {"generated": 0.05, "real_vs_real_mean": 0.04}},
                    }
                },
                "fits": {
                    "figures": [{"name": "scaling", "caption": "Loss against <i>size</i>."}],
                    "transformer": {
                        "alpha": 0.21,
                        "alpha_interval": [0.1, 0.34],
                        "verdict": "identified",
                    },
                    "lstm": {
                        "alpha": 0.4,
                        "alpha_interval": [0.05, 2.0],
                        "verdict": "open",
                        "reason": "<b>wide</b>",
                    },
                },
                "baselines": {
                    "test": {
                        "uniform": {"bits_per_char": 6.1},
                        "unigram": {"bits_per_char": 3.83},
                        "5-gram": {"bits_per_char": 2.2},
                    }
                },
                "best": {
                    "test_bits_per_char": 1.4213,
                    "test_bits_per_char_interval": [1.361, 1.489],
                    "test_perplexity": 2.68,
                    "val_nats_per_char": 0.8123,
                    "choice": {
                        "minutes": 5,
                        "rule": "lowest loss",
                        "chosen": plans[1],
                        "rivals": plans[:1],
                        "expected": {"minutes": 4.5, "val_nats_per_char": 0.79},
                        "outcome": {"minutes": 4.7},
                    },
                    "test_loss_by_position": [2 * 0.9 ** (i / 4) + 0.9 for i in range(64)],
                },
                "samples": {
                    "unprompted": {"n": 100, "rate": 0.62, "interval": [0.52, 0.71]},
                    "ladder": ladder,
                    "right_bars": {
                        "n": 100,
                        "rate": 0.97,
                        "interval": [0.92, 0.99],
                        "draws_per_bar": 1.13,
                    },
                },
                "novelty": {
                    "generated": {"copied_share": 0.03},
                    "heldout_baseline": {"copied_share": 0.05},
                },
            }
        )
    )
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("report"))


class Page(HTMLParser):
    """A page taken apart: `text` as a reader sees it, and `elements` as [(tag, attributes)]."""

    def __init__(self, html):
        super().__init__()
        self.text, self.elements, self._inside = "", [], None
        self.feed(html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside not in ("style", "script"):
            self.text += data

    def all(self, tag, **attributes):
        """Attributes of every element of this name, those given being equal; `class_` for class."""
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        return [has for name, has in self.elements if name == tag and wanted.items() <= has.items()]


def page_of(root):
    return Page(report.write_report(root).read_text())


# ---------------------------------------------------------------- what the page says


def test_surprisal_shades_every_character_once():
    text, bits = "X:1\nab<c|", [0.1, 0.1, 0.1, 0.1, 3.0, 3.0, 7.0, 0.1, 1.5]
    runs = report.shaded_runs(text, bits, "X:1\n")
    assert runs == [("prompt", "X:1\n"), (3, "ab"), (5, "<"), (0, "c"), (2, "|")]
    # a record that leaves the prompt out
    assert report.shaded_runs(text, bits[4:], "X:1\n") == runs
    assert report.shaded_runs("a<b", [], "") == [(0, "a<b")]


@pytest.mark.parametrize(
    "fit, word, said",
    [
        (
            {"alpha": 0.3123, "alpha_interval": [0.2, 0.4], "verdict": "identified"},
            "identified",
            "α = 0.31 (95 %: 0.20–0.40)",
        ),
        (
            {"alpha": 0.3123, "alpha_interval": [0.2, 1.4], "verdict": "bounded"},
            "bounded",
            "between 0.2 and 1.4",
        ),
        (
            {"alpha": 3.0, "alpha_interval": [0.283, "unbounded"], "verdict": "open"},
            "open",
            "at least 0.28",
        ),
        (
            {"alpha": 3.0, "alpha_interval": ["unbounded", "unbounded"], "verdict": "open"},
            "open",
            "do not pin",
        ),
        ({"alpha": None, "reason": "they rise"}, "no law", "do not let a law be fitted"),
    ],
)
def test_a_verdict_claims_what_the_fit_carries(fit, word, said):
    verdict = words.law_verdict("transformer", fit)
    assert verdict.word == word and said in verdict.sentence and "3.0" not in verdict.sentence


@pytest.mark.parametrize(
    "bits, interval, word",
    [
        (1.4, [1.3, 1.5], "ahead"),
        (1.5, [1.4, 1.6], "not told apart"),
        (1.7, [1.6, 1.8], "behind"),
        (1.5, None, "ahead"),
    ],
)
def test_the_best_model_is_ahead_of_the_strongest_mark_only_where_its_interval_is(
    bits, interval, word
):
    verdict = words.loss_verdict(
        {
            "best": {"test_bits_per_char": bits, "test_bits_per_char_interval": interval},
            "headline": {"strongest_baseline": {"name": "ppmd", "test_bits_per_char": 1.553}},
        }
    )
    assert verdict.word == word and "ppmd" in verdict.sentence


def test_sentences_of_verdicts_are_short(root):
    results = json.loads((root / "part4_outputs/RESULTS.json").read_text())
    found = words.verdicts(results)
    assert [verdict.subject for verdict in found] == [
        "Transformers",
        "LSTMs",
        "Best model",
        "Its samples",
        "Marks not passed",
    ]
    for sentence in " ".join([words.lead(results), *(verdict.sentence for verdict in found)]).split(
        ". "
    ):
        assert len(sentence.split()) <= 25, sentence
    assert words.verdicts({}) == []


def test_the_page_begins_with_the_best_valid_unprompted_sample():
    def first(*rows):
        samples = [{"roll": None if row.get("silent") else "x"} for row in rows]
        metadata = [
            {
                "prompt": row.get("prompt", ""),
                "bars": row.get("bars", "free"),
                "validity": {"level": row["level"], "bar_accuracy": 1},
            }
            for row in rows
        ]
        return words.first_of(samples, metadata)

    wrong, prompted, redrawn = (
        {"level": 3},
        {"level": 5, "prompt": "X:1"},
        {"level": 5, "bars": "right"},
    )
    assert first(wrong, prompted) == (
        1,
        "Chosen by rule, the best of 2: valid, a prompt, bars drawn freely.",
    )
    assert first(wrong, prompted, redrawn)[0] == 2
    assert first(wrong, redrawn, {"level": 4}, {"level": 4})[0] == 2
    assert first({"level": 5, "silent": True}, wrong) == (
        1,
        "Chosen by rule: none of the 2 samples is valid; this one comes nearest.",
    )
    assert first() == (None, "")


def test_page_of_an_empty_root_says_what_is_missing(tmp_path):
    text = page_of(tmp_path).text
    assert (
        "Not measured in this run" in text
        and "No sample can be played" in text
        and "No attention map" in text
    )


def test_page_shows_what_was_measured(root):
    page = page_of(root)
    for said in (
        "0.21",
        "0.10–0.34",
        "do not pin",
        "<b>wide</b>",
        "1.42",
        "1.36–1.49",
        "ahead",
        "0.33",
        "62 %",
        "Of 100 first tries 62 %",
        "Marks not passed",
        "<b>tiny</b>, test: 1.900 against 1.553 of ppmd",
        "it read 300,000",
        "wrong bars redrawn",
        "1.13",
        "Transformer small",
        "0.81",
        "level 3 of 5, not valid",
        "level 5 of 5, valid",
        "random <b>",
        "Loss against <i>size</i>.",
        "Nothing to draw or play",
        "short run",
        "header and first four bars given",
        "1.25",
        "0.050",
        "Grey notes",
        "Sample 1 stands at the top",
    ):
        assert said in page.text, said
    assert "FAILURE" not in page.text
    assert {figure["id"] for figure in page.all("figure") if "id" in figure} == {
        "figure-scaling",
        "figure-curves",
        "figure-skills",
        "figure-odd<name",
    }
    drawable = [f"play sample {i}" for i in (1, 2, 3, 4, 7, 8, 9, 10)]
    assert [button["aria-label"] for button in page.all("button", class_="play")] == drawable
    assert [
        f"play {figure['aria-label'][9:]}" for figure in page.all("figure", class_="score wide")
    ] == drawable


def test_the_same_input_gives_the_same_page(root):
    assert report.write_report(root).read_bytes() == report.write_report(root).read_bytes()


def test_played_samples_get_a_page_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_SAMPLES", 2)
    rows = [
        {
            "file": f"play_{i:03d}.abc",
            "text": text,
            "prompt": prompt,
            "seed": i,
            "stop_reason": "end",
            "validity": check_abc(text)._asdict(),
            "surprisal_bits": [],
        }
        for i, (text, prompt) in enumerate(
            [(JIG, ""), (TWO_VOICES, ""), (JIG, JIG[: JIG.index("A4d2|") + 5])], 1
        )
    ]
    path = report.write_played_page(tmp_path, rows)
    page = Page(path.read_text())
    assert path == tmp_path / "part4_outputs/generated/played.html"
    assert [button["aria-label"] for button in page.all("button", class_="play")] == [
        "play played sample 003",
        "play played sample 002",
    ]
    assert len(page.all("figure", class_="score wide")) == 2  # engraved for this page
    assert (
        "1 older one" in page.text
        and page.text.count("Grey notes") == 1
        and "level 5 of 5, valid" in page.text
    )
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in page.all("img"))


def test_an_edit_of_the_template_changes_its_digest(tmp_path, monkeypatch):
    digests = {report.template_digest()}
    shutil.copytree(report.HERE, tmp_path / "page")
    monkeypatch.setattr(report, "HERE", tmp_path / "page")
    assert report.template_digest() in digests
    for name in report.TEMPLATES:
        (tmp_path / "page" / name).write_text("another")
        digests.add(report.template_digest())
    assert len(digests) == 1 + len(report.TEMPLATES)


# ---------------------------------------------------------------- what may not enter the page


def test_page_holds_no_live_text_of_the_samples(root):
    html = report.write_report(root).read_text()
    page = Page(html)
    assert len(html.encode()) < report.PAGE_BYTES
    for live in ("<img src=x", "odd<name", "<b>", "<i>size", "alert(1)>"):
        assert live not in html
    assert all(
        picture["src"].startswith("data:image/svg+xml;base64,") for picture in page.all("img")
    )
    # the others are data of players
    assert [script.get("type") for script in page.all("script")].count(None) == 1
    assert {script.get("type") for script in page.all("script")} == {None, "application/json"}
    assert not [
        name for _, attributes in page.elements for name in attributes if name.startswith("on")
    ]
    links = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href")
    ]
    assert links and all(link.startswith(("data:", "#")) for link in links)
    script = re.search(r"<script>(.*?)</script>", html, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert (
        "default-src 'none'" in policy
        and f"script-src 'sha256-{digest}';" in policy
        and "eval" not in policy
    )


def test_page_keeps_its_limit_by_leaving_scores_to_their_files(root, monkeypatch):
    full = report.write_report(root).read_bytes()
    monkeypatch.setattr(report, "PAGE_BYTES", len(full) - 100_000)
    data = report.write_report(root).read_bytes()
    page = Page(data.decode())
    assert len(data) <= report.PAGE_BYTES and "see generated/sample_0" in page.text
    assert (
        0
        < len(page.all("figure", class_="score wide"))
        < 8
        == len(page.all("button", class_="play"))
    )


# ---------------------------------------------------------------- attention


def test_attention_map_shows_what_the_model_computes(monkeypatch):
    torch = pytest.importorskip("torch")
    import common
    from study.families import build_model

    torch.manual_seed(0)
    text = "X:1\nK:C\nabcd|abcd|efga|\n"
    tokenizer = common.CharTokenizer(text)
    shape = dict(
        family="transformer",
        vocab_size=tokenizer.vocab_size,
        block_size=64,
        n_layer=2,
        n_head=2,
        d_model=16,
        d_ff=32,
        dropout=0.1,
        rotary=True,
        qk_norm=True,
        token_shift=True,
    )
    model, seen = build_model(shape).train(), []
    real = common.F.scaled_dot_product_attention

    def watch(q, k, v, **options):
        seen.append((v[0], real(q, k, v, **options)))
        return seen[-1][1]

    watch.__name__ = "scaled_dot_product_attention"
    monkeypatch.setattr(common.F, "scaled_dot_product_attention", watch)
    best = attention.attention_map(model, tokenizer, text)
    # the weights shown, times the values, are what the model's own head gave
    values, out = seen[best.layer - 1]
    shown = torch.from_numpy(best.weights) @ values[best.head - 1]
    assert torch.allclose(shown, out[0, best.head - 1], atol=1e-5)
    assert best.n_heads == 4 and 0 <= best.share <= 1 and best.weights.shape == (len(text) + 1,) * 2
    assert model.training
    assert "".join(best.tokens) == text
    lstm = build_model(
        dict(
            family="lstm",
            vocab_size=tokenizer.vocab_size,
            block_size=64,
            n_layer=1,
            d_embedding=8,
            d_hidden=8,
            dropout=0.0,
        )
    )
    assert attention.attention_map(lstm, tokenizer, text) is None
    assert attention.attention_map(model, tokenizer, "ab") is None


# ---------------------------------------------------------------- in a browser

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)


class Browser:
    """Headless Chromium, spoken to over its debugging pipe (JSON messages that end in a zero
    byte)."""

    def __init__(self, profile):
        import fcntl

        down, up = os.pipe(), os.pipe()
        # out of the way of 3 and 4
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (down[0], up[1])]
        self.process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--autoplay-policy=no-user-gesture-required",
                "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            pass_fds=[*ends, 3, 4],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: (os.dup2(ends[0], 3), os.dup2(ends[1], 4)),
        )
        for fd in (down[0], up[1], *ends):
            os.close(fd)
        self.inward, self.outward, self.rest, self.n, self.events, self.session = (
            down[1],
            up[0],
            b"",
            0,
            [],
            None,
        )
        page = next(
            target
            for target in self("Target.getTargets")["targetInfos"]
            if target["type"] == "page"
        )
        self.session = self("Target.attachToTarget", targetId=page["targetId"], flatten=True)[
            "sessionId"
        ]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self(f"{domain}.enable")

    def __call__(self, method, **params):
        self.n += 1
        message = {"id": self.n, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.inward, json.dumps(message).encode() + b"\0")
        return self.wait(lambda answer: answer.get("id") == self.n)["result"]

    def wait(self, wanted, seconds=60):
        import select
        import time

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            while b"\0" in self.rest:
                one, _, self.rest = self.rest.partition(b"\0")
                answer = json.loads(one)
                self.events += [answer] if "method" in answer else []
                if wanted(answer):
                    assert "error" not in answer, answer
                    return answer
            if select.select([self.outward], [], [], 1)[0]:
                self.rest += os.read(self.outward, 1 << 20)
        raise TimeoutError("the browser did not answer")

    def open(self, path):
        self("Page.navigate", url=path.as_uri())
        self.wait(lambda answer: answer.get("method") == "Page.loadEventFired")

    def js(self, code):
        answer = self("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def photograph(self, query):
        """The lightness, 0 to 1, of the pixels of the first such element that are on the screen;
        (height, width)."""
        from matplotlib import image

        box = self.js(
            f"(() => {{ const e = document.querySelector({query!r}); e.scrollIntoView();const {{x,"
            " y, width, height} = e.getBoundingClientRect();return {x: x + scrollX, y: y +"
            " scrollY, width: Math.min(width, innerWidth - x), height,scale: 1} })()"
        )
        data = self("Page.captureScreenshot", clip=box, captureBeyondViewport=True)["data"]
        return image.imread(io.BytesIO(base64.b64decode(data)))[..., :3].mean(axis=-1)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.inward)
        os.close(self.outward)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


RENDER = """(async () => { const loudness = [];
  for (const {notes} of players) {
    const offline = new OfflineAudioContext(1, 22050 * 3, 22050);
    for (const note of notes) if (note[0] < 3) sound(offline, offline.destination, note, note[0]);
    const data = (await offline.startRendering()).getChannelData(0);
    loudness.push(Math.sqrt(data.reduce((sum, x) => sum + x * x, 0) / data.length)) }
  return loudness })()"""


def test_page_in_a_browser(root, browser):
    path = report.write_report(root)
    browser.events.clear()
    browser.open(path)
    assert browser.js("document.querySelectorAll('figure.score > img').length") == 8
    assert browser.js(
        "[...document.querySelectorAll('main img')].every(i => i.complete && i.naturalWidth > 100)"
    )
    assert browser.js("document.querySelector('main img:not(.picture)') === null")
    loudness = browser.js(RENDER)
    assert len(loudness) == 8 and min(loudness) > 0.005
    playing = browser.js(
        "(async () => { players[0].button.click(); await new Promise(done => setTimeout(done,"
        " 700));const said = [players[0].button.textContent, +players[0].range.value > 0,"
        " context.state];players[1].button.click(); await new Promise(done => setTimeout(done,"
        " 100));said.push(players[0].button.textContent);"
        " players[1].button.click();said.push(players[1].button.textContent); return said })()"
    )
    assert playing[0] == "Stop" and playing[3:] == ["Play", "Play"]
    browser.js("document.getElementById('theme').click()")
    assert browser.js("document.documentElement.dataset.theme") in ("light", "dark")
    trouble = [
        event
        for event in browser.events
        if event["method"]
        in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    ]
    assert trouble == []
    requests = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert requests and all(url.startswith((path.as_uri(), "data:")) for url in requests)


def test_page_can_be_used_from_the_keyboard(root, browser):
    browser.open(report.write_report(root))
    seen = []
    for _ in range(40):
        for kind in ("keyDown", "keyUp"):
            browser(
                "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9
            )
        seen.append(
            browser.js("document.activeElement.className + '#' + document.activeElement.id")
        )
        if seen[-1].startswith("play#"):
            break
    assert (
        seen[0].startswith("skip") and "#theme" in seen and seen[-1] == "play#" and len(seen) <= 10
    )
    for kind in ("keyDown", "keyUp"):
        browser(
            "Input.dispatchKeyEvent",
            type=kind,
            key=" ",
            code="Space",
            text=" ",
            windowsVirtualKeyCode=32,
        )
    assert (
        browser.js(
            "new Promise(done => setTimeout(() => done(document.activeElement.textContent), 400))"
        )
        == "Stop"
    )


def test_the_first_screen_holds_a_plot_and_something_to_play(root, browser):
    browser(
        "Emulation.setDeviceMetricsOverride",
        width=1280,
        height=800,
        deviceScaleFactor=1,
        mobile=False,
    )
    browser.open(report.write_report(root))
    for query in (".play", ".score", "#figure-scaling"):
        top, bottom, right = browser.js(
            "(({top, bottom, right}) => [top, bottom, right])"
            f"(document.querySelector('{query}').getBoundingClientRect())"
        )
        assert 0 < top < 500 and (bottom <= 800 or query == "#figure-scaling") and right <= 1280
    assert (
        browser.js("(scrollTo(0, 3000), document.querySelector('nav').getBoundingClientRect().top)")
        == 0
    )


def test_a_phone_says_that_a_picture_goes_on_to_the_right(root, browser):
    browser(
        "Emulation.setDeviceMetricsOverride",
        width=360,
        height=800,
        deviceScaleFactor=1,
        mobile=True,
    )
    browser.open(report.write_report(root))
    cue = (
        "(async () => { const box = document.querySelector('.score'); const said ="
        " [box.classList.contains('more')];box.scrollLeft = 1e5; await new Promise(done =>"
        " setTimeout(done, 200));return [...said, box.classList.contains('more')] })()"
    )
    assert browser.js(cue) == [True, False]


@pytest.mark.parametrize("width", [360, 1100])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_and_is_legible(root, browser, width, scheme):
    path = report.write_report(root)
    browser(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    browser(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=width < 500,
    )
    browser.open(path)
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    paper, ink = browser.js(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )

    def light(colour):
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765

    assert (light(paper) > 0.5) == (scheme == "light") and abs(light(paper) - light(ink)) > 0.5
    pixels = browser.photograph("figure.score > img")
    # most of a score is paper, and its notes are ink
    assert abs(np.median(pixels) - light(paper)) < 0.1
    notes = pixels.min() if scheme == "light" else pixels.max()
    assert abs(notes - light(ink)) < 0.2
