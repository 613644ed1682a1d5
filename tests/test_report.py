"""Pictures of samples and the page: what is drawn, what is escaped, and what a browser makes of it."""

import base64
import json
import os
import re
import shutil
import subprocess
from fractions import Fraction

import numpy as np
import pytest

from study import report
from music.abc_text import check_abc, read_abc

TWO_VOICES = """X:1
M:4/4
L:1/16
Q:1/4=96
K:Eb
[V:1](3e2d2c2B8z4|[V:2][G,B,]8[D,F,]8|
[V:1]e4=e4f4^f4|[V:2]G,12-G,2F,2|
[V:1]g3a(3b2a2g2f5e3|[V:2][E,-G,-B,]8[E,G,C]8-|
[V:1][M:3/4][egb]12|[V:2][M:3/4][E,G,C]12|
"""
JIG = """X:1
M:6/8
L:1/16
Q:1/4=180
K:Dm
d2|f2e2d2A4d2|f3ga2g2f2e2|d4^c2d6|z12|A2B2^c2d2e2f2|a7g5|[df]6d4|
"""
OVERFULL = JIG.replace("A4d2|", "A4d2e4|")
HOSTILE = JIG + "</script><img src=x onerror=alert(1)>\"'&<!--|\n"
RESTS = "X:1\nM:4/4\nL:1/16\nK:C\n" + "z16|" * 8 + "\n"
RANDOM = "X:1\nM:4/4\nL:1/16\nK:C\nj@3$%^&]]|[(9\n"
MIDI = bytes.fromhex("4d546864000000060000000100604d54726b0000000c00903c4060803c4000ff2f00")
FIGURE = ('<?xml version="1.0"?><!DOCTYPE svg><svg xmlns="http://www.w3.org/2000/svg" '
          'xmlns:xlink="http://www.w3.org/1999/xlink" width="432pt" height="288pt" viewBox="0 0 432 288">'
          '<metadata><a href="http://example.org/">x</a></metadata><script>alert(2)</script><style>*{fill:red}</style>'
          '<defs><path id="dot" d="M 0.123456 1.987654 L 10 10"/></defs>'
          '<rect width="432" height="288" style="fill: #ffffff"/>'
          '<g id="axes" onclick="alert(3)"><use xlink:href="#dot" x="10.55555" style="stroke: #000000"/>'
          '<path d="M 20 250 L 400 40" style="stroke: #3366aa; fill: none; stroke-width: 2"/>'
          '<image href="http://example.org/x.png"/><path d="M0 0" style="fill:url(http://example.org/)"/>'
          '<text x="20" y="270">loss &lt; 2</text></g></svg>')


def make_root(root):
    """A root with everything that the page can show, from little tunes of our own."""
    outputs, rng = root / "part4_outputs", np.random.default_rng(0)
    generated = outputs / "generated"
    generated.mkdir(parents=True)
    (outputs / "figures").mkdir()
    samples = []
    for i, text in enumerate([TWO_VOICES, JIG, OVERFULL, HOSTILE, RESTS, RANDOM, TWO_VOICES, JIG, JIG, OVERFULL]):
        check = check_abc(text)._asdict()
        stem = f"sample_{i:03d}"
        (generated / f"{stem}.abc").write_text(text)
        (generated / f"{stem}.mid").write_bytes(MIDI)
        pictures = report.draw_sample(text, generated, stem)
        prompt = text[:text.index("K:")] if i % 3 == 1 else ""
        samples.append({
            "index": i, "file": f"{stem}.abc", "text": text, "type": "bars" if prompt else "unconditional",
            "prompt": prompt, "temperature": 0.9, "top_k": 0, "top_p": 0.95, "min_p": 0.0, "seed": i,
            "stop_reason": "end", "validity": check, "pictures": pictures,
            "novelty": {"longest_copied_chars": 31, "copied_share": 0.0},
            "surprisal_bits": [round(float(x), 2) for x in rng.exponential(1.2, len(text))]})
    (generated / "metadata.json").write_text(json.dumps({"samples": samples}))
    for name in ("scaling", "curves", "skills", "odd<name"):
        (outputs / "figures" / f"{name}.svg").write_text(FIGURE)
    ladder = [{"name": "real music", "kind": "real", "n": 100, "by_level": [1, 1, 1, 0.99, 0.97], "rate": 0.99,
               "interval": [0.95, 1.0], "bar_accuracy": 1.0, "judge_rate": 0.98},
              {"name": "best model", "kind": "model", "n": 100, "by_level": [0.98, 0.9, 0.85, 0.62, 0.6], "rate": 0.62,
               "interval": [0.52, 0.71], "bar_accuracy": 0.94, "judge_rate": 0.7},
              {"name": "8-gram", "kind": "ngram", "n": 100, "by_level": [0.9, 0.3, 0.3, 0, 0], "rate": 0.0,
               "interval": [0, 0.04], "bar_accuracy": 0.4, "judge_rate": 0.0},
              {"name": "random <b>", "kind": "random", "n": 100, "by_level": [1, 0, 0, 0, 0], "rate": 0.0,
               "interval": [0, 0.04], "bar_accuracy": 0.05, "judge_rate": 0.0}]
    (outputs / "RESULTS.json").write_text(json.dumps({
        "quick": True, "environment": {"python": "3.11", "torch": "2.13.0"},
        "headline": {"warnings": ["FAILURE: <b>nothing</b> learnt"]},
        "runs": [{"name": "transformer_tiny", "params_total": 137536, "val_nats_per_char": 1.25, "train_flops": 1e12}],
        "music": {"unprompted": {"n": 100, "metrics": {"bar_repetition": {"generated_mean": 0.2, "real_mean": 0.33}},
                                 "jsd": {"duration": {"generated": 0.05, "real_vs_real_mean": 0.04}}}},
        "fits": {"figures": [{"name": "scaling", "caption": "Loss against <i>size</i>."}],
                 "transformer": {"alpha": 0.21, "alpha_interval": [0.1, 0.34], "identified": True},
                 "lstm": {"alpha": 0.4, "alpha_interval": [0.05, 2.0], "identified": False}},
        "baselines": {"test": {"uniform": {"bits_per_char": 6.1}, "unigram": {"bits_per_char": 3.83},
                               "5-gram": {"bits_per_char": 2.2}}},
        "best": {"test_bits_per_char": 1.42, "test_perplexity": 2.68,
                 "test_loss_by_position": [2 * 0.9 ** (i / 4) + 0.9 for i in range(64)]},
        "evaluation": {"abc_validity_rate": 0.62, "validity": {"n": 100, "interval": [0.52, 0.71], "ladder": ladder},
                       "novelty": {"generated": {"copied_share": 0.03}, "heldout_baseline": {"copied_share": 0.05}}}}))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("report"))


# ---------------------------------------------------------------- notation

def sounding(xml):
    """[(onset, pitch, duration)] in quarter notes of every part of a MusicXML score, ties joined."""
    found = []
    for part in re.findall(rb"<part .*?</part>", xml, re.S):
        notes, bar_start, now, open_ties = [], Fraction(0), Fraction(0), {}
        divisions = 1
        for measure in re.findall(rb"<measure.*?</measure>", part, re.S):
            now = bar_start
            match = re.search(rb"<divisions>(\d+)<", measure)
            divisions = int(match[1]) if match else divisions
            for note in re.findall(rb"<note.*?</note>", measure, re.S):
                length = Fraction(int(re.search(rb"<duration>(\d+)<", note)[1]), divisions)
                onset = previous if b"<chord" in note else now
                if b"<chord" not in note:
                    previous, now = now, now + length
                if b"<rest" in note:
                    continue
                step, octave = re.search(rb"<step>(.)<", note)[1].decode(), int(re.search(rb"<octave>(\d+)<", note)[1])
                alter = int((re.search(rb"<alter>(-?\d+)<", note) or [0, 0])[1])
                pitch = midi(step, alter, octave)
                if b'<tie type="stop"' in note:
                    open_ties[pitch][2] += length
                else:
                    notes.append([onset, pitch, length])
                if b'<tie type="start"' in note:
                    open_ties[pitch] = open_ties.get(pitch) if b'<tie type="stop"' in note else notes[-1]
            bar_start = now
        found.append(sorted(map(tuple, notes)))
    return found


@pytest.mark.parametrize("text", [TWO_VOICES, JIG, OVERFULL,
                                  "X:1\nM:4/4\nL:1/16\nK:F#m\n[C-EG]4[Cg]2(3c2d2e2c5d3-|d7e9|(5cdefg(3c4d4e4z3-|c16|\n"
                                  .replace("z3-", "c3-").replace("(5cdefg", "cdefg")])
def test_the_score_holds_exactly_the_notes_of_the_tune(text):
    tune = read_abc(text)
    expected = [sorted((n.onset, n.pitch, n.duration) for n in voice.notes) for voice in tune.voices]
    assert sounding(report.musicxml(tune, report.bars_to_draw(tune))) == expected


def midi(letter, alter, octave):
    return 12 * (octave + 1) + {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[letter] + alter


def test_spelling_follows_the_key():
    names = {pitch: report.spell(pitch, fifths)[:2] for pitch, fifths in ((70, -1), (66, 1), (61, 3), (63, -3))}
    assert names == {70: ("B", -1), 66: ("F", 1), 61: ("C", 1), 63: ("E", -1)}
    for fifths in range(-7, 8):
        for pitch in range(128):
            assert midi(*report.spell(pitch, fifths)) == pitch


def test_lengths_are_split_into_note_heads_that_add_up():
    for start in range(0, 64):
        for length in range(1, 80):
            start_, length_ = Fraction(start, 16), Fraction(length, 16)
            pieces = report.split_length(start_, length_)
            assert sum(pieces) == length_ and all(report._is_plain(piece) for piece in pieces)
    assert report.split_length(Fraction(1, 3), Fraction(11, 3)) == [Fraction(2, 3), 3]
    assert report.split_length(Fraction(0), Fraction(4, 3)) == [Fraction(4, 3)]


def test_clef_goes_by_register():
    low = JIG.replace("K:Dm\n", "K:Dm\n[V:1]").replace("d", "D,").replace("f", "F,").replace("g", "G,")
    assert b"<sign>F</sign>" in report.musicxml(read_abc(low.replace("a", "A,").replace("e", "E,")), 4)
    assert b"<sign>G</sign>" in report.musicxml(read_abc(JIG), 4)


def test_wrong_bars_are_red_and_pickups_are_not():
    tune = read_abc(OVERFULL)
    assert [i for i in range(len(tune.voices[0].bars)) if report.is_wrong(tune.voices[0], i)] == [1]
    assert report.WRONG.upper().encode() in report.musicxml(tune, 8).upper()
    assert report.WRONG.upper().encode() not in report.musicxml(read_abc(JIG), 8).upper()


def test_long_tunes_are_drawn_in_part():
    one = read_abc("X:1\nM:4/4\nL:1/16\nK:C\n" + "c4d4e4f4|" * 50 + "\n")
    four = read_abc("X:1\nM:4/4\nL:1/16\nK:C\n" + ("".join(f"[V:{v}]c8e8|" for v in range(1, 5)) + "\n") * 50)
    assert (report.bars_to_draw(one), report.bars_to_draw(four)) == (32, 16)


# ---------------------------------------------------------------- pictures

def test_draw_sample_writes_four_pictures(tmp_path):
    made = report.draw_sample(TWO_VOICES, tmp_path, "s")
    assert made["reasons"] == {} and made["unread"] is None and made["bars_drawn"] == made["bars"] == 4
    for key, name in (("score_svg", "s.svg"), ("score_png", "s.png"), ("roll_svg", "s_roll.svg"),
                      ("roll_png", "s_roll.png")):
        assert made[key] == name
        data = (tmp_path / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n" if name.endswith("png") else b"<svg" in data
    assert (tmp_path / "s.svg").stat().st_size < 60_000


def test_the_longest_readable_prefix_is_drawn(tmp_path):
    made = report.draw_sample(HOSTILE, tmp_path, "s")
    assert made["score_svg"] and HOSTILE[:made["drawn_chars"]].endswith("|") and made["bars"] == 8
    assert "line 7" in made["unread"]
    made = report.draw_sample(TWO_VOICES.replace("=e4f4", "=e4f4[["), tmp_path, "s")
    assert made["score_svg"] and made["bars"] == 1


@pytest.mark.parametrize("text", ["", "X:1\n", RESTS, RANDOM, "\0\ud800", "X:1\nK:C\n" + "[" * 4000])
def test_no_text_is_an_error(tmp_path, text):
    (tmp_path / "s.png").write_bytes(b"of an earlier text")
    made = report.draw_sample(text, tmp_path, "s")
    assert made["score_svg"] is None and made["reasons"]["score"] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("engraver, reason", [
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"), ("import time; time.sleep(60)", "0.5 s"),
    ("import sys; sys.exit('no')", "no"),
    ("raise ImportError(\"No module named 'verovio'\")", "verovio is not installed")])
def test_without_a_score_there_is_still_a_roll(tmp_path, monkeypatch, engraver, reason):
    monkeypatch.setattr(report, "ENGRAVER", engraver)
    monkeypatch.setattr(report, "ENGRAVE_SECONDS", 0.5 if "sleep" in engraver else 20)
    made = report.draw_sample(JIG, tmp_path, "s")
    assert made["score_svg"] is None and reason in made["reasons"]["score"] and made["roll_svg"] and made["roll_png"]


def test_without_resvg_there_are_still_svgs(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    made = report.draw_sample(JIG, tmp_path, "s")
    assert made["score_svg"] and made["score_png"] is None and "not installed" in made["reasons"]["score_png"]


# ---------------------------------------------------------------- what may enter the page

def test_svg_is_rebuilt_from_an_allow_list():
    svg = report.inline_svg(FIGURE, "a-", 'a "label"')
    for bad in ("script", "alert", "http", "<style", "metadata", "onclick", "<?xml", "DOCTYPE", "#000000"):
        assert bad not in svg
    assert 'id="a-0"' in svg and 'href="#a-0"' in svg and "currentColor" in svg and "var(--paper)" in svg
    assert "0.12 1.99" in svg and "loss &lt; 2" in svg and "a &quot;label&quot;" in svg
    for bad in ("<html/>", "no", "", '<!DOCTYPE a [<!ENTITY b "c">]><svg>&b;</svg>'):
        with pytest.raises(ValueError):
            report.inline_svg(bad, "a-", "")


def test_surprisal_colours_every_character_once():
    text, bits = "X:1\nab<c|", [0.1, 0.1, 0.1, 0.1, 3.0, 3.0, 7.0, 0.1, 1.5]
    shown = report.coloured(text, bits, "X:1\n")
    assert re.sub("<[^>]*>", "", shown).replace("&lt;", "<") == text
    assert shown == ('<span class="p">X:1\n</span><span class="s3">ab</span><span class="s5">&lt;</span>c'
                     '<span class="s2">|</span>')
    assert report.coloured(text, bits[4:], "X:1\n") == shown  # a record that leaves the prompt out
    assert report.coloured("a<b", None, "") == "a&lt;b"


def test_greys_and_wrong_bars_follow_the_page():
    svg = report.inline_svg('<svg viewBox="0 0 9 9"><path fill="#B3261E"/><path style="fill: #808080; stroke: #ccc"/>'
                            '<path fill="#112233" stroke="black"/><path fill="whitesmoke"/></svg>', "a-", "")
    assert 'fill="var(--no)"' in svg and "currentColor 50%" in svg and "currentColor 20%" in svg
    assert 'fill="#112233" stroke="currentColor"' in svg and "whitesmoke" in svg


@pytest.mark.parametrize("fits, words", [
    ({"transformer": {"alpha": 0.3, "alpha_interval": [0.2, None], "identified": False}},
     "This run cannot say by what law"),
    ({"transformer": {"alpha": 0.3, "alpha_interval": [0.2, 0.4], "identified": True},
      "refused": {"lstm": "they rise"}},
     "α = 0.30 (95 %: 0.20–0.40) for Transformers; the LSTMs give no law (they rise)."),
    ({"lstm": {"alpha": 0.3, "alpha_interval": [None, None], "identified": False}}, "without bounds"),
    ({}, "no fit and no best model")])
def test_the_answer_claims_what_the_fits_carry(fits, words):
    assert words in report.answer({"fits": fits})


def test_player_notes_are_seconds():
    tune = read_abc("X:1\nM:4/4\nL:1/4\nQ:1/4=60\nK:C\nCC[Q:1/4=120]CC|\n")
    assert [note[:2] for note in report.player_notes(tune)] == [[0, 1], [1, 1], [2, 0.5], [2.5, 0.5]]


def test_page_of_an_empty_root_says_what_is_missing(tmp_path):
    page = report.write_report(tmp_path).read_text()
    assert page.count("Not measured in this run") >= 3 and "no fit and no best model" in page


def test_page_holds_no_live_text_of_the_samples(root):
    page = report.write_report(root).read_text()
    assert len(page.encode()) < report.PAGE_BYTES
    for live in ("<img", "odd<name", "<b>", "<i>size", "alert(1)>"):
        assert live not in page
    assert page.count('<figure id="figure-') == 4 and "Loss against &lt;i&gt;size" in page
    assert page.count("</script>") == page.count("<script") == 1 + page.count('<script type="application/json"')
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:|//|javascript:)", page)
    assert "default-src 'none'" in page and "'unsafe-inline' 'unsafe-eval'" not in page
    script = re.search(r"<script>(.*?)</script>", page, re.S)[1]
    digest = base64.b64encode(__import__("hashlib").sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    for words in ("0.21", "0.10–0.34", "do not pin it down", "62 % of its 100 first-try", "FAILURE: &lt;b&gt;",
                  "0.33", "1.42", "62 %", "level 3 of 5, not valid", "level 5 of 5, valid",
                  "Nothing to draw or play", "short run", "header and first four bars given", "1.25", "0.050"):
        assert words in page
    assert page.count('<figure class="score') == 8 and page.count('class="play"') == 8
    assert page == report.write_report(root).read_text()  # the same input gives the same page


def test_page_keeps_its_limit_by_leaving_scores_to_their_files(root, monkeypatch):
    full = report.write_report(root).read_text()
    monkeypatch.setattr(report, "PAGE_BYTES", len(full.encode()) - 30_000)
    page = report.write_report(root).read_text()
    assert len(page.encode()) <= report.PAGE_BYTES
    assert "see generated/sample_0" in page and page.count('<figure class="score') < 8 == page.count('class="play"')


# ---------------------------------------------------------------- attention

def test_attention_map_shows_what_the_model_computes(monkeypatch):
    torch = pytest.importorskip("torch")
    import common
    torch.manual_seed(0)
    text = "X:1\nK:C\nabcd|abcd|efga|\n"
    tokenizer = common.Tokenizer(text)
    shape = dict(family="transformer", vocab_size=tokenizer.vocab_size, block_size=64, n_layer=2, n_head=2, d_model=16,
                 d_ff=32, dropout=0.1, rotary=True, qk_norm=True, token_shift=True)
    model, seen = common.build_model(shape).train(), []
    real = common.F.scaled_dot_product_attention

    def watch(q, k, v, **options):
        seen.append((v[0], real(q, k, v, **options)))
        return seen[-1][1]

    watch.__name__ = "scaled_dot_product_attention"
    monkeypatch.setattr(common.F, "scaled_dot_product_attention", watch)
    found = report.attention_map(model, tokenizer, text)
    values, out = seen[found["layer"] - 1]  # the weights shown, times the values, are what the model's own head gave
    shown = torch.from_numpy(found["weights"]) @ values[found["head"] - 1]
    assert torch.allclose(shown, out[0, found["head"] - 1], atol=1e-5)
    assert found["n_heads"] == 4 and 0 <= found["share"] <= 1 and found["weights"].shape == (len(text) + 1,) * 2
    assert model.training
    assert "attention of one head" in report.attention_figure(found)
    lstm = common.build_model(dict(family="lstm", vocab_size=tokenizer.vocab_size, block_size=64, n_layer=1,
                                   d_embedding=8, d_hidden=8, dropout=0.0))
    assert report.attention_map(lstm, tokenizer, text) is None
    assert report.attention_map(model, tokenizer, "ab") is None


# ---------------------------------------------------------------- in a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Browser:
    """Headless Chromium, spoken to over its debugging pipe (JSON messages that end in a zero byte)."""

    def __init__(self, profile):
        import fcntl
        down, up = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (down[0], up[1])]  # out of the way of 3 and 4
        self.process = subprocess.Popen(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--autoplay-policy=no-user-gesture-required", "--remote-debugging-pipe", f"--user-data-dir={profile}",
             "about:blank"], pass_fds=[*ends, 3, 4], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: (os.dup2(ends[0], 3), os.dup2(ends[1], 4)))
        for fd in (down[0], up[1], *ends):
            os.close(fd)
        self.inward, self.outward, self.rest, self.n, self.events, self.session = down[1], up[0], b"", 0, [], None
        page = next(target for target in self("Target.getTargets")["targetInfos"] if target["type"] == "page")
        self.session = self("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
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
    assert browser.js("document.querySelectorAll('figure.score > svg').length") == 8
    assert browser.js("[...document.querySelectorAll('figure.score > svg')].every(s => s.getBBox().width > 100)")
    assert browser.js("document.querySelector('main img') === null")
    loudness = browser.js(RENDER)
    assert len(loudness) == 8 and min(loudness) > 0.005
    playing = browser.js("(async () => { players[0].button.click(); await new Promise(done => setTimeout(done, 700));"
                         "const said = [players[0].button.textContent, +players[0].range.value > 0, context.state];"
                         "players[1].button.click(); await new Promise(done => setTimeout(done, 100));"
                         "said.push(players[0].button.textContent); players[1].button.click();"
                         "said.push(players[1].button.textContent); return said })()")
    assert playing[0] == "Stop" and playing[3:] == ["Play", "Play"]
    browser.js("document.getElementById('theme').click()")
    assert browser.js("document.documentElement.dataset.theme") in ("light", "dark")
    trouble = [event for event in browser.events if event["method"] in
               ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")]
    assert trouble == []
    requests = [event["params"]["request"]["url"] for event in browser.events
                if event["method"] == "Network.requestWillBeSent"]
    assert requests and all(url.startswith((path.as_uri(), "data:")) for url in requests)


def test_page_can_be_used_from_the_keyboard(root, browser):
    browser.open(report.write_report(root))
    seen = []
    for _ in range(40):
        for kind in ("keyDown", "keyUp"):
            browser("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        seen.append(browser.js("document.activeElement.className + '#' + document.activeElement.id"))
        if seen[-1].startswith("play#"):
            break
    assert seen[0].startswith("skip") and "#theme" in seen and "score wide#" in seen and seen[-1] == "play#"
    for kind in ("keyDown", "keyUp"):
        browser("Input.dispatchKeyEvent", type=kind, key=" ", code="Space", text=" ", windowsVirtualKeyCode=32)
    assert browser.js("new Promise(done => setTimeout(() => done(document.activeElement.textContent), 400))") == "Stop"


@pytest.mark.parametrize("width", [360, 1100])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_and_is_legible(root, browser, width, scheme):
    path = report.write_report(root)
    browser("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    browser.open(path)
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    paper, ink, note = browser.js(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        "getComputedStyle(document.querySelector('figure.score use')).fill]")
    def light(colour):
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765
    assert (light(paper) > 0.5) == (scheme == "light") and abs(light(paper) - light(ink)) > 0.5
    assert abs(light(paper) - light(note)) > 0.5
