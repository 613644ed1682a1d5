"""compose.html in headless Chromium, from a file and without a network: the engine computes what torch
does, the judge answers as Python's, tunes are valid, and what a person pastes does nothing."""

import base64
import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import renew_compose
from browser import CHROMIUM, Browser
from common import CharTokenizer, load_tokenizer
from music.abc_check import check_abc
from music.abc_text import read_abc
from music.right_bars import judge
from study.families import build_model, model_class
from study.report import compose
from study.train.checkpoints import load_checkpoint

HERE = Path(__file__).parent
STUDY = HERE.parent / "docs/study"
SCRIPTS = {
    "transformer": "04_train_transformers",
    "lstm": "05_train_lstms",
    "ssm": "05b_train_ssms",
}
CASES = json.loads((HERE / "right_bars_cases.json").read_text(encoding="utf-8"))
VOCABULARY = 50
HOSTILE = (
    "X:1\nT:<img src=x onerror=window.hit=1>\nM:4/4\nL:1/4\nK:C\n"
    '"<script>window.hit=1</script>"CDEF|[V:<svg onload=window.hit=1>]GABc|cBAG|FEDC|\n'
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium that reaches no network."""
    if not CHROMIUM:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    browser(
        "Network.emulateNetworkConditions",
        offline=True,
        latency=0,
        downloadThroughput=0,
        uploadThroughput=0,
    )
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """The page of the study's model, opened; it has not composed yet."""
    root = tmp_path_factory.mktemp("root")
    (root / "checkpoints").mkdir()
    for name in ("best_model.pt", "best_model.tokenizer.pkl"):
        shutil.copy(STUDY / name, root / "checkpoints")
    path = compose.write_compose(root)
    open_page(browser, path)
    return path


def open_page(browser, path, settings="start=0"):
    for url in ("about:blank", path.as_uri() + "#" + settings):  # another hash alone loads nothing
        browser.events.clear()
        browser("Page.navigate", url=url)
        browser.wait(lambda answer: answer.get("method") == "Page.loadEventFired")


def complaints(browser):
    kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
    return [event for event in browser.events if event["method"] in kinds]


def random_model(family, size, block_size):
    """A model with weights that all matter, rounded as in the page."""
    shape = importlib.import_module(SCRIPTS[family]).SIZES[size]
    flags = dict.fromkeys(model_class(family).FLAGS, True)
    torch.manual_seed(0)
    model = build_model(
        {
            "family": family,
            "vocab_size": VOCABULARY,
            "block_size": block_size,
            "dropout": 0.0,
            **shape,
            **flags,
        }
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter += torch.randn_like(parameter) * parameter.shape[1] ** -0.5
    model.load_state_dict(compose.rounded_weights(model.state_dict()))
    return model.eval()


# ---------------------------------------------------------------- the engine

LOGITS = """(data => {
  const model = new FAMILIES[data.config.family](data.config, unpackWeights(data.table, data.weights));
  const cache = model.start();
  const logits = finish(read(model, cache, data.tokens));
  const other = [...data.tokens.slice(0, -9), 4, 5, 6, 7];
  finish(read(model, cache, other));  // and back again
  return [[...logits], [...finish(read(model, cache, data.tokens))]];
})"""


@pytest.mark.parametrize("family", SCRIPTS)
@pytest.mark.parametrize(
    "size, block_size, n_tokens", [("tiny", 512, 600), ("small", 64, 100), ("medium", 64, 90)]
)
def test_the_page_computes_what_torch_computes(browser, page, family, size, block_size, n_tokens):
    """Over several windows: the Transformer's is re-anchored after block_size tokens."""
    model = random_model(family, size, block_size)
    tokens = torch.randint(3, VOCABULARY, (1, n_tokens))
    table, weights = compose.packed_weights(model.state_dict())
    with torch.inference_mode():
        expected = model.step_rows(tokens.tolist())[0][0]
    data = {
        "config": model.config,
        "table": table,
        "weights": base64.b64encode(weights).decode(),
        "tokens": tokens[0].tolist(),
    }
    for logits in browser.js(f"{LOGITS}({json.dumps(data)})"):
        assert (torch.tensor(logits) - expected).abs().max() < 1e-3


def test_full_window_of_the_study_model(browser, page):
    tokenizer = load_tokenizer(STUDY / "best_model.tokenizer.pkl")
    model, _ = load_checkpoint(STUDY / "best_model.pt")
    model.load_state_dict(compose.rounded_weights(model.state_dict()))
    text = (STUDY / "generated/sample_000.abc").read_text(encoding="utf-8")
    tokens = [1, 0, *tokenizer.encode(text * 5).tolist()][:512]
    with torch.inference_mode():
        expected = model(torch.tensor([tokens]))[0][0, -1]
    logits = browser.js(f"[...finish(read(model, model.start(), {json.dumps(tokens)}))]")
    assert (torch.tensor(logits) - expected).abs().max() < 1e-3


def test_a_head_that_is_off_is_off(browser, page):
    """In both languages: its output is zero."""
    model, _ = load_checkpoint(STUDY / "best_model.pt")
    model.load_state_dict(compose.rounded_weights(model.state_dict()))
    size = model.config["d_model"] // model.config["n_head"]
    with torch.no_grad():  # head 2 of layer 3
        model.blocks[2].attention_out.weight[:, size : 2 * size] = 0
    tokens = list(range(3, 40))
    with torch.inference_mode():
        expected = model(torch.tensor([tokens]))[0][0, -1]
    logits = browser.js(
        "[...finish(read(model, Object.assign(model.start(),"
        f" {{off: new Set([9])}}), {json.dumps(tokens)}))]"
    )
    assert (torch.tensor(logits) - expected).abs().max() < 1e-3


def test_sampler_keeps_to_its_settings(browser, page):
    weights = browser.js("[...filteredWeights([Math.log(.5), Math.log(.3), Math.log(.2)], 1, .5)]")
    assert weights == pytest.approx([1.0, 0.6, 0.0])
    first = "(() => { const r = new Pcg32(42); return [r.next(), r.next(), r.uniform()] })()"
    assert browser.js(first) == browser.js(first)
    counts = browser.js(
        "(() => { const r = new Pcg32(1), n = [0, 0]; for (let i = 0; i < 4000; i++)"
        " n[draw([3, 1], r.uniform())]++; return n })()"
    )
    assert 2850 < counts[0] < 3150


# ---------------------------------------------------------------- the judge


def test_cases_in_python():
    for case in CASES:
        judged = judge(case["text"], case["n_given"], case["n_before"], case["ended"])
        assert list(judged) == case["judged"], case["text"]


def test_cases_in_the_page(browser, page):
    found = browser.js(
        f"({json.dumps(CASES)}).map(c => {{ const j = judge(c.text, c.n_given, c.n_before,"
        " c.ended); return [j.verdict, j.nBars, j.level, j.nEach] })"
    )
    for case, judged in zip(CASES, found, strict=True):
        assert judged == case["judged"], case["text"]


def test_voices_come_in_turns_from_their_first_characters(browser, page):
    head = "X:1\nM:2/4\nL:1/16\nK:C\n[V:1]Z2|[V:2]C8|"  # Z2 is two bars: voice 2 owes one
    texts = [head, head + "C8|"]
    found = browser.js(
        f"({json.dumps(texts)}).map(text => {{ const place = nextVoices(text, 0, true);"
        " return [place.goOn, place.others, turnsTooEarly(text + '[V', place)] })"
    )
    assert found == [[True, [], True], [True, ["1", "3"], False]]


# ---------------------------------------------------------------- the page


def test_the_page_gets_its_turn_after_every_token(browser, page):
    n_turns, n_tokens = browser.js(
        "(() => { const own = new Writer(model, tokenizer); let n = 0;"
        f" for (const turn of own.set({json.dumps(CASES[10]['text'])})) n++;"
        " return [n, own.tokens.length] })()"
    )
    assert n_turns >= n_tokens - 1 > 10


def composed(browser, **settings):
    """The text after a press of the button."""
    given = {"nBars": "4", "bars": "right", "key": "", "meter": "", "voices": "0", **settings}
    for name, value in given.items():
        browser.js(f"$({name!r}).value = {str(value)!r}")
    browser.js("composeNow('', false)")
    return browser.js("state.text")


def test_tunes_are_right_bar_by_bar_and_the_same_again(browser, page):
    texts = [
        composed(browser, seed=1, key="D", meter="6/8"),
        composed(browser, seed=2, voices=2),
        composed(browser, seed=3, nBars=8, voices=1),
    ]
    for text in texts:
        check = check_abc(text)
        assert check.header and check.tokens and check.meter and check.aligned, text
    assert read_abc(texts[0]).key == "D" and read_abc(texts[0]).meter == "6/8"
    assert [len(voice.bars) for voice in read_abc(texts[1]).voices] == [4, 4]
    assert [len(voice.bars) for voice in read_abc(texts[2]).voices] == [8]
    assert composed(browser, seed=3, nBars=8, voices=1) == texts[2]
    assert not complaints(browser)


def test_files_hold_the_notes_of_the_tune(browser, page):
    symusic = pytest.importorskip("symusic")
    text = composed(browser, seed=5, voices=2)
    notes = sorted(note.pitch for voice in read_abc(text).voices for note in voice.notes)
    midi = bytes(browser.js("[...midiFile(state.score)]"))
    score = symusic.Score.from_midi(midi)
    assert sorted(note.pitch for track in score.tracks for note in track.notes) == notes
    from music21 import converter

    xml = converter.parse(browser.js("musicXml(state.score)"), format="musicxml")
    heads = [n for n in xml.flatten().notes if not (n.tie and n.tie.type != "start")]
    assert sum(len(n.pitches) for n in heads) == len(notes)
    again = browser.js(f"abcOfMidi(Uint8Array.from({json.dumps(list(midi))}))")
    assert sorted(n.pitch for v in read_abc(again).voices for n in v.notes) == notes


def test_a_tune_is_continued_harmonised_and_rewritten(browser, page):
    text = composed(browser, seed=7, voices=1)
    own = f"$('abc').value = {json.dumps(text)}; "
    browser.js(own + "goOn()")
    longer = browser.js("state.text")
    assert longer.startswith(text.rstrip()) and len(read_abc(longer).voices[0].bars) == 8
    browser.js(own + "$('parts').value = 2; harmoniseOwn()")
    voices = read_abc(browser.js("state.text")).voices
    melody = read_abc(text).voices[0]
    assert [note[:3] for note in voices[0].notes] == [note[:3] for note in melody.notes]
    assert [bar.length for bar in voices[1].bars] == [bar.length for bar in melody.bars]
    before = browser.js("state.text")
    n = browser.js("(async () => { chooseBar(2, 1); await rewriteBar();"
                   " return $('proposals').children.length })()")  # fmt: skip
    assert n >= 2
    browser.js("$('proposals').children[1].onclick()")
    assert browser.js("state.text") != before
    browser.js("undo()")
    assert browser.js("state.text") == before
    assert not complaints(browser)


def test_heads_and_arcs(browser, page):
    composed(browser, seed=11, nBars=8, voices=1)
    browser.js("chooseNote(state.score.notes.length - 1)")
    assert browser.js("document.querySelectorAll('.likely').length") >= 6
    whole = browser.js("barCosts(state.text, writer.bits, tokenizer, writer.tokens).all")
    browser.js("(() => { for (const box of $('heads').querySelectorAll('input')) box.checked = false;"
               " return switchHeads() })()")  # fmt: skip
    assert browser.js("barCosts(state.text, writer.bits, tokenizer, writer.tokens).all") > whole
    assert browser.js("document.querySelectorAll('.arc').length") == 0
    browser.js("(() => { for (const box of $('heads').querySelectorAll('input')) box.checked = true;"
               " return switchHeads() })()")  # fmt: skip
    again = browser.js("barCosts(state.text, writer.bits, tokenizer, writer.tokens).all")
    assert again == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize(
    "text",
    [HOSTILE, "", "K:", "X:1\nK:C\n" + "(" * 3000, "X:1\nM:4/4\nK:C\n" + "[" * 2000, "\0\ufeff|||"],
    ids=["markup", "empty", "field", "slurs", "chords", "no text"],
)
def test_hostile_abc_does_nothing(browser, page, text):
    n_nodes = browser.js("document.querySelectorAll('script, img, svg svg, iframe').length")
    browser.js(f"$('abc').value = {json.dumps(text)}; readOwn()")
    assert browser.js("window.hit === undefined")
    assert browser.js("document.querySelectorAll('script, img, svg svg, iframe').length") == n_nodes
    assert not complaints(browser)
    for data in ([], [77, 84, 104, 100], [77, 84, 104, 100, *[255] * 60]):
        said = browser.js(
            f"(async () => {{ await takeFile(new File([Uint8Array.from({data})], '<b>x.mid'));"
            " return [$('status').className, $('status').children.length] })()"
        )
        assert said == ["trouble", 0]


def test_nothing_is_asked_of_a_network(page):
    text = page.read_text(encoding="utf-8")
    for word in ("fetch(", "XMLHttpRequest", "import(", 'src="http', "localStorage", "innerHTML"):
        assert word not in text
    assert page.stat().st_size < 4_000_000


def test_the_page_that_ships_has_the_script_of_today():
    """If not: python -m benchmarks.renew_compose"""
    text = renew_compose.PAGE.read_text(encoding="utf-8")
    assert renew_compose.renewed(text) == text
    assert renew_compose.PAGE.stat().st_size < 4_000_000


def test_pages_of_recurrent_models_say_why_they_have_no_arcs(browser, page, tmp_path):
    for family in ("lstm", "ssm"):
        model = random_model(family, "tiny", 64)
        tokenizer = CharTokenizer("\n|" + "".join(map(chr, range(48, 48 + VOCABULARY - 5))))
        facts = {"name": "x", "family": family.upper(), "n_parameters": 1}
        facts |= {"loss": None, "heads": None}
        path = tmp_path / f"{family}.html"
        path.write_text(compose.compose_page(model, tokenizer, facts), encoding="utf-8")
        open_page(browser, path)
        assert "memory is one state" in browser.js("$('cutWords').textContent")
        assert browser.js("$('heads').children.length") == 0
        assert not complaints(browser)
    open_page(browser, page)


def press(browser, key, **more):
    for kind in ("keyDown", "keyUp"):
        browser(
            "Input.dispatchKeyEvent", type=kind, key=key, text=key if key == " " else "", **more
        )


def test_keys_play_move_and_undo(browser, page):
    browser("Emulation.setFocusEmulationEnabled", enabled=True)
    text = composed(browser, seed=21, voices=1)
    browser.js("$('roll').focus()")
    press(browser, "ArrowRight")
    press(browser, "ArrowRight")
    assert browser.js("[state.note, $('noteWords').textContent.includes('bits')]") == [1, True]
    press(browser, " ")
    browser.js("new Promise(done => { const look = () => player.playing && player.now > 0 ? done()"
               " : setTimeout(look, 20); look() })")  # fmt: skip
    assert browser.js("$('play').textContent") == "■ Stop"
    press(browser, " ")
    assert not browser.js("player.playing")
    composed(browser, seed=22, voices=1)
    assert browser.js("state.text") != text
    browser.js("undo()")
    assert browser.js("state.text") == text


@pytest.mark.parametrize("sound", ["pluck", "struck"])
def test_sound_is_in_tune_and_fades(browser, page, sound):
    loud, faint, period = browser.js(
        f"(() => {{ const rate = 44100, f = 440, data = {sound}(f, rate);"
        " const power = (from, to) => data.slice(from, to).reduce((s, x) => s + x * x, 0);"
        " let best = 0, at = 0; for (let lag = 60; lag < 140; lag++) { let s = 0;"
        " for (let i = 4000; i < 12000; i++) s += data[i] * data[i + lag];"
        " if (s > best) { best = s; at = lag } }"
        " return [power(0, 8000), power(70000, 78000), at] })()"
    )
    assert loud > 1 and faint < loud / 20 and abs(period - 44100 / 440) < 1.5


def test_memory_stays_flat(browser, page):
    """Nine tunes need no more than three did."""
    used = []
    for part in range(3):
        for seed in range(3):
            composed(browser, seed=30 + 3 * part + seed, voices=1, bars="drawn")
        browser("HeapProfiler.collectGarbage")
        used.append(browser("Runtime.getHeapUsage")["usedSize"])
    assert used[2] < used[0] + 8e6


def test_a_link_holds_the_settings(browser, page):
    open_page(browser, page, "key=Am&meter=6%2F8&temperature=0.8&seed=12&start=0&nBars=%3Cb%3E")
    now = browser.js("settings()")
    assert (now["key"], now["meter"], now["temperature"], now["seed"]) == ("Am", "6/8", "0.8", "12")
    assert now["nBars"] == "16"
    assert browser.js("linkOfSettings()") == "#key=Am&meter=6%2F8&temperature=0.8&seed=12"
    assert not complaints(browser)
