"""The page: what it shows, what it does not let in, and what a browser makes of it."""

import base64
import hashlib
import json
import re
from gzip import decompress
from html.parser import HTMLParser

from study.stages.manifest import write_manifest

import numpy as np
import pytest

from browser import CHROMIUM, Browser
from music.abc_check import check_abc
from study.evaluate.samples import write_pictures
from study.report import attention, page, sample_views
from test_notation import HOSTILE, JIG, OVERFULL, RANDOM, RESTS, TWO_VOICES

MIDI = bytes.fromhex("4d546864000000060000000100604d54726b0000000c00903c4060803c4000ff2f00")
FIGURE = (
    '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="432pt" height="288pt"'
    ' viewBox="0 0 432 288"><script>alert(2)</script><rect width="432" height="288"'
    ' style="fill: #ffffff"/><g onclick="alert(3)"><path d="M 20 250 L 400 40"'
    ' style="stroke: #3366aa; fill: none; stroke-width: 2"/>'
    '<image href="http://example.org/x.png"/><text x="20" y="270">loss &lt; 2</text></g></svg>'
)
TEXTS = [TWO_VOICES, JIG, OVERFULL, HOSTILE, RESTS, RANDOM, TWO_VOICES, JIG, JIG, OVERFULL]
PLAYABLE = [1, 2, 3, 4, 7, 8, 9, 10]  # samples with a note; the first to show is 1


def rates(*levels, bars=0.5):
    names = ("header", "tokens", "content", "meter", "aligned")
    return {
        "n": 100,
        "rate": levels[3],
        "interval": [max(0, levels[3] - 0.1), min(1, levels[3] + 0.1)],
        "level_rates": dict(zip(names, levels)),
        "bar_accuracy": bars,
        "abc2midi_clean_rate": levels[4],
    }


def results():
    """A RESULTS.json with hostile names."""
    return {
        "version": 1,
        "quick": True,
        "environment": {"python": "3.11", "torch": "2.13.0"},
        "headline": {
            "sentence": "Loss falls with <i>size</i>.",
            "numbers": {"test_bits_per_char": {"value": 1.4213, "interval": [1.361, 1.489]}},
        },
        "baselines_not_beaten": {
            "sentence": "PPMd on the test split by <b>tiny</b>",
            "rows": [],
        },
        "data": {"licences": ["Ours <b>CC0</b>"], "splits": {"train": {"tunes": 12}}},
        "music": {
            "n": 100,
            "metrics": {"bar_repetition": {"generated_mean": 0.2, "real_mean": 0.33}},
            "jsd": {"duration": {"generated": 0.05, "real_vs_real_mean": 0.04}},
        },
        "baselines": {"test": {"ppmd": {"label": "PPMd", "bits_per_char": 1.553}}},
        "best": {"test_bits_per_char": 1.4213, "test_bits_per_char_interval": [1.361, 1.489]},
        "samples": {
            "unprompted": {**rates(0.98, 0.9, 0.85, 0.62, 0.6), "repeated_bars": 0.2},
            "chosen_sampler": None,
            "right_bars": {**rates(1, 1, 1, 0.97, 0.9), "draws_per_bar": 1.13},
            "real_music": rates(1, 1, 1, 0.99, 0.97, bars=1.0),
            "baselines": {
                "8-gram": rates(0.9, 0.3, 0.3, 0, 0),
                "random <b>": rates(1, 0, 0, 0, 0),
            },
        },
    }


def make_root(root):
    """A root with everything that the page can show, from little tunes of our own."""
    outputs, rng = root / "part4_outputs", np.random.default_rng(0)
    generated, samples = outputs / "generated", []
    generated.mkdir(parents=True)
    (outputs / "figures").mkdir()
    for i, text in enumerate(TEXTS):
        stem, prompt = f"sample_{i:03d}", ""
        (generated / f"{stem}.mid").write_bytes(MIDI)
        if i % 3 == 1:
            prompt = text[: text.index("|", text.index("K:")) + 1]
        samples.append(
            {
                "file": f"{stem}.abc",
                "text": text,
                "type": "bars" if prompt else "unconditional",
                "prompt": prompt,
                "bars": "free",
                "temperature": 0.9,
                "top_k": 0,
                "top_p": 1.0,
                "min_p": 0.0,
                "seed": i,
                "stop_reason": "end",
                "validity": check_abc(text)._asdict(),
                "pictures": write_pictures(generated, stem, text, len(prompt)),
                "novelty": {"longest_copied_chars": 31},
                "surprisal_bits": [round(float(x), 2) for x in rng.exponential(1.2, len(text))],
            }
        )
    (generated / "metadata.json").write_text(json.dumps({"samples": samples}))
    for name in ("scaling", "curves", "skills"):
        (outputs / "figures" / f"{name}.svg").write_text(FIGURE)
    caption = {"name": "scaling", "caption": "Loss against <i>size</i>."}
    (outputs / "fits.json").write_text(json.dumps({"figures": [caption]}))
    (outputs / "RESULTS.json").write_text(json.dumps(results()))
    run = {"name": "transformer_tiny", "family": "transformer", "size": "tiny"}
    run |= dict.fromkeys(("train_flops", "params_total", "seconds"), 137536)
    run |= {f"{split}_nats_per_char": 1.25 for split in ("train", "val", "test")}
    (root / "checkpoints").mkdir()
    (root / "checkpoints/transformer_tiny.json").write_text(json.dumps(run))
    manifest = {"outputs": {"checkpoints/transformer_tiny.json": None}}
    write_manifest(root, "04_train_transformers", manifest)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def outputs(root):
    return root / "part4_outputs"


class Page(HTMLParser):
    """A page taken apart: `text` as a reader sees it, `elements` as [(tag, attributes)], `script`
    as it is run."""

    def __init__(self, html):
        super().__init__()
        self.text, self.script, self.elements, self._inside = "", "", [], (None, {})
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        self._inside = tag, dict(attributes)
        self.elements.append(self._inside)

    def handle_endtag(self, tag):
        self._inside = None, {}

    def handle_data(self, data):
        tag, attributes = self._inside
        if tag == "script" and not attributes:
            self.script += data
        elif tag not in ("style", "script"):
            self.text += data

    def all(self, tag, **attributes):
        """Attributes of every element of this name, those given being equal; `class_` for class."""
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        return [has for name, has in self.elements if name == tag and wanted.items() <= has.items()]

    @property
    def pictures(self):
        """The SVGs of the page, {description: text}."""
        images = [image for image in self.all("img") if "data-svg" in image]
        return {
            image["alt"]: decompress(base64.b64decode(image["data-svg"])).decode()
            for image in images
        }


def page_of(root):
    return Page(page.write_report(root).read_text())


# ---------------------------------------------------------------- what the page says


def test_surprisal_shades_every_character_once():
    text, bits = "X:1\nab<c|", [0.1, 0.1, 0.1, 0.1, 3.0, 3.0, 7.0, 0.1, 1.5]
    runs = sample_views.shaded_runs(text, bits, "X:1\n")
    assert runs == [("prompt", "X:1\n"), (3, "ab"), (5, "<"), (0, "c"), (2, "|")]
    assert sample_views.shaded_runs(text, bits[4:], "X:1\n") == runs  # bits without the prompt's
    assert sample_views.shaded_runs("a<b", [], "") == [(0, "a<b")]


def test_the_page_begins_with_the_best_valid_unprompted_sample():
    def first(*rows):
        views = [{"roll": None if row.get("silent") else "x"} for row in rows]
        metadata = [
            {
                "prompt": row.get("prompt", ""),
                "bars": row.get("bars", "free"),
                "validity": {"level": row["level"], "bar_accuracy": 1},
            }
            for row in rows
        ]
        return sample_views.first_of(views, metadata)

    wrong, prompted = {"level": 3}, {"level": 5, "prompt": "X:1"}
    redrawn = {"level": 5, "bars": "right"}
    assert first(wrong, prompted)[0] == 1
    assert first(wrong, prompted, redrawn)[0] == 2
    assert first(wrong, redrawn, {"level": 4}, {"level": 4})[0] == 2
    assert "none" in first({"level": 5, "silent": True}, wrong)[1].lower()
    assert first() == (None, "")


def test_the_template_is_given_the_headline_and_the_tables(root):
    data = page.page_data(root)
    assert data["sentence"] == "Loss falls with <i>size</i>." and data["is_quick"]
    numbers = dict(data["numbers"])
    assert numbers["bits per character of unseen music"] == "1.42 (95 %: 1.36 to 1.49)"
    assert data["lead"].startswith("A model read 12 tunes") and not data["compose"]
    assert data["licences"] == ["Ours <b>CC0</b>"]
    rate = dict(data["rates"]["rows"])["best model, right bars"]
    assert (rate[1].text, rate[-1].text) == ("97 %", "1.13")
    assert "random <b>" not in dict(data["rates"]["rows"])
    assert [name for name, _ in data["levels"]["rows"]] == [
        "real music, held out",
        "best model",
        "best model, right bars",
        "8-gram",
        "random <b>",
    ]
    assert numbers["baselines not beaten"] == "PPMd on the test split by <b>tiny</b>"
    music = dict(data["music"]["rows"])
    assert [cell.text for cell in music["repeated bars"]][:2] == ["0.20", "0.33"]
    assert data["runs"]["rows"][0][1][2].text == "1.250"


def test_figures_that_decide_stand_first(outputs):
    shown = page.figures_of(outputs / "figures", [{"name": "scaling", "caption": "Loss."}])
    names = {section: [figure.name for figure in group] for section, group in shown.items()}
    assert names["deciding"] == ["scaling"] and names["skills"] == ["skills"]
    assert names["laws"] == ["curves"] and shown["deciding"][0].alt == "Loss."


def test_winners_of_the_answer_become_a_table():
    row = {"n": 670e3, "d": 1.3e6, "winner": "transformer", "margin": 0.0521, "clear": True}
    rows = [row, {**row, "d": 84e3, "clear": False}, {**row, "n": 4e3}]
    found = page.winners_table({"fits": {"answer": {"winners": rows}}})
    assert found["head"] == ["parameters", "84k characters", "1.3M characters"]
    assert [(name, [cell.text for cell in cells]) for name, cells in found["rows"]] == [
        ("670k", ["draw", "Transformer"]),
        ("4k", ["–", "Transformer"]),
    ]
    assert found["rows"][0][1][1].note == "by 0.052 nats" and page.winners_table({}) is None


def test_page_shows_every_sample_with_its_score(root):
    shown = page_of(root)
    buttons = [button["aria-label"] for button in shown.all("button", class_="play")]
    assert buttons == [f"play sample {i}" for i in PLAYABLE]
    assert {f"score of sample {i}" for i in PLAYABLE} <= set(shown.pictures)
    assert all(svg.endswith("</svg>") for svg in map(str.strip, shown.pictures.values()))
    assert {figure["id"] for figure in shown.all("figure") if "id" in figure} == {
        "figure-scaling",
        "figure-curves",
        "figure-skills",
    }
    for words in ("level 3 of 5, not valid", "Nothing to draw or play", "Ours <b>CC0</b>"):
        assert words in shown.text


def test_page_leads_to_the_model_that_composes(root, outputs):
    (outputs / "compose.html").write_text("")
    assert "compose.html" in [link["href"] for link in page_of(root).all("a")]
    (outputs / "compose.html").unlink()


def test_the_same_input_gives_the_same_page(root):
    assert page.write_report(root).read_bytes() == page.write_report(root).read_bytes()


def test_played_samples_get_a_page_of_their_own(outputs, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MAX_SAMPLES", 2)
    row = json.loads((outputs / "generated/metadata.json").read_text())["samples"][0]
    rows = [
        {**row, "file": f"play_{i:03d}.abc", "text": text}
        for i, text in enumerate([JIG, TWO_VOICES, JIG], 1)
    ]
    path = page.write_played_page(tmp_path, rows)
    shown = Page(path.read_text())
    assert path == tmp_path / "part4_outputs/generated/played.html"
    buttons = [button["aria-label"] for button in shown.all("button", class_="play")]
    assert buttons == ["play played sample 003", "play played sample 002"]
    assert "score of played sample 003" in shown.pictures  # engraved for this page
    assert "1 older one" in shown.text


# ---------------------------------------------------------------- what may not enter the page


def test_page_holds_no_live_text_of_the_samples(root):
    html = page.write_report(root).read_text()
    shown = Page(html)
    assert len(html.encode()) < 3_000_000
    for live in ("<img src=x", "<b>", "<i>size", "alert(1)>"):
        assert live not in html
    assert not [image for image in shown.all("img") if "src" in image]
    scripts = [script.get("type") for script in shown.all("script")]
    assert scripts.count(None) == 1 and set(scripts) == {None, "application/json"}
    attributes = [pair for _, attributes in shown.elements for pair in attributes.items()]
    assert not [name for name, _ in attributes if name.startswith("on")]
    links = [value for name, value in attributes if name in ("src", "href")]
    assert links and all(link.startswith("data:") for link in links)
    digest = base64.b64encode(hashlib.sha256(shown.script.encode()).digest()).decode()
    policy = shown.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}';" in policy


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
    model, seen = build_model(shape).eval(), []
    real = common.F.scaled_dot_product_attention

    def watch(q, k, v, **options):
        seen.append((v[0], real(q, k, v, **options)))
        return seen[-1][1]

    watch.__name__ = "scaled_dot_product_attention"
    monkeypatch.setattr(common.F, "scaled_dot_product_attention", watch)
    best = attention.attention_map(model, tokenizer, text, 1, 0)
    row, column = best["places"][0]  # "abcd" again
    assert (row, column) == (17, 12 + best["offset"]) and best["offset"] in (1, 2, 3, 4)
    assert (best["layer"], best["head"]) == (2, 1)
    # the weights shown, times the values, are what the model's own head gave
    values, out = seen[best["layer"] - 1]
    shown = torch.from_numpy(best["weights"]) @ values[best["head"] - 1]
    assert torch.allclose(shown, out[0, best["head"] - 1], atol=1e-5)
    assert best["n_heads"] == 4 and best["weights"].shape == (len(text) + 1,) * 2
    assert "".join(best["tokens"]) == text
    assert attention.attention_map(model, tokenizer, "ab", 0, 0) is None


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


OPEN_ALL = """(async () => { await shown;
  for (const fold of all('details')) { fold.open = true; await show(fold); } })()"""
RENDER = """(async () => { const loudness = [];
  for (const {notes} of players) {
    const offline = new OfflineAudioContext(1, 22050 * 3, 22050);
    for (const note of notes) if (note[0] < 3) sound(offline, offline.destination, note, note[0]);
    const data = (await offline.startRendering()).getChannelData(0);
    loudness.push(Math.sqrt(data.reduce((sum, x) => sum + x * x, 0) / data.length)) }
  return loudness })()"""
PLAY_TWO = """(async () => {
  const wait = ms => new Promise(done => setTimeout(done, ms));
  players[0].button.click();
  for (let i = 0; i < 100 && +players[0].range.value === 0; i++) await wait(50);
  const said = [players[0].button.textContent, +players[0].range.value > 0];
  players[1].button.click(); await wait(50);
  said.push(players[0].button.textContent);
  players[1].button.click(); await wait(50);
  said.push(players[1].button.textContent);
  return said })()"""
TROUBLE = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


def resize(browser, width, height=800):
    browser(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=height,
        deviceScaleFactor=1,
        mobile=width < 500,
    )


def press(browser, key, code, number, **more):
    for kind in ("keyDown", "keyUp"):
        browser(
            "Input.dispatchKeyEvent",
            type=kind,
            key=key,
            code=code,
            windowsVirtualKeyCode=number,
            **more,
        )


def test_page_in_a_browser(root, browser):
    path = page.write_report(root)
    browser.events.clear()
    browser.open(path)
    closed = browser.js("shown.then(() => all('img[data-svg]').length)")
    browser.js(OPEN_ALL)
    assert closed > 0 == browser.js("all('img[data-svg]').length")
    assert browser.js("all('figure.score > img').length") == len(PLAYABLE)
    assert browser.js("all('main img').every(i => i.complete && i.naturalWidth > 100)")
    loudness = browser.js(RENDER)
    assert len(loudness) == len(PLAYABLE) and min(loudness) > 0.005
    assert browser.js(PLAY_TWO) == ["Stop", True, "Play", "Play"]
    assert [event for event in browser.events if event["method"] in TROUBLE] == []
    requests = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert requests and all(url.startswith((path.as_uri(), "data:", "blob:")) for url in requests)


def test_page_can_be_used_from_the_keyboard(root, browser):
    browser.open(page.write_report(root))
    for _ in range(5):
        press(browser, "Tab", "Tab", 9)
        if browser.js("document.activeElement.className") == "play":
            break
    press(browser, " ", "Space", 32, text=" ")
    started = "(async () => { for (let i = 0; i < 100; i++) { if (playing) return true;"
    started += " await new Promise(done => setTimeout(done, 50)) } })()"
    assert browser.js(started) is True


def test_the_first_screen_holds_a_score_and_something_to_play(root, browser):
    resize(browser, 1200)
    browser.open(page.write_report(root))
    browser.js("shown.then(() => true)")
    for query in (".play", ".score", ".numbers"):
        top, bottom = browser.js(
            "(({top, bottom}) => [top, bottom])"
            f"(document.querySelector('{query}').getBoundingClientRect())"
        )
        assert 0 < top < bottom <= 800, query
    assert browser.js("document.documentElement.scrollHeight") < 8000


@pytest.mark.parametrize("width", [360, 1100])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_and_is_legible(root, browser, width, scheme):
    path = page.write_report(root)
    browser(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    resize(browser, width)
    browser.open(path)
    browser.js("shown.then(() => true)")
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
