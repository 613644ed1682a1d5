"""`--continue`: a user's MIDI or ABC file, its last bars as a prompt, and the file with given and
new bars."""

import importlib

import pytest
import symusic
from test_sampling import Chain

from common import CharTokenizer
from music.abc_check import check_abc
from music.abc_text import read_abc
from music.continuation import MARK, NextBars, last_bars, marked, midi_with_source
from music.midi_to_abc import convert
from music.notation import musicxml
from music.one_file import open_file
from music.training_text import training_text
from study.evaluate import models, play
from tunes import long_tune, music, tune

stage07 = importlib.import_module("07_train_best_and_generate")
SCALE = (60, 62, 64, 65, 67, 69, 71, 72)


def song(n_bars=12, tempos=((0, 90.0), (9, 101.5))):
    """MIDI bytes of two parts with drums, 3/4, tempos [(bar, quarter notes a minute)]."""
    score = symusic.Score(120)
    score.time_signatures.append(symusic.TimeSignature(0, 3, 4))
    for bar, qpm in tempos:
        score.tempos.append(symusic.Tempo(bar * 360, qpm))
    for low in (0, 12):
        track = symusic.Track("part", 0, False)
        for beat in range(3 * n_bars):
            track.notes.append(
                symusic.Note(beat * 120, 120, SCALE[(beat * (low + 5)) % 8] - low, 80)
            )
        score.tracks.append(track)
    drums = symusic.Track("kit", 0, True)
    for bar in range(n_bars):
        drums.notes.append(symusic.Note(bar * 360, 30, 36 + bar, 70 + bar))
    score.tracks.append(drums)
    return score.dumps_midi()


def notes(tune, start=0):
    return sorted(
        (note.onset - start, note.duration, note.pitch)
        for voice in tune.voices
        for note in voice.notes
        if note.onset >= start
    )


@pytest.mark.parametrize("n_bars", [1, 3, 8, 40])
@pytest.mark.parametrize("text", [convert(song(), "song")[0], long_tune(4, 3, 30), music(9)])
def test_the_last_bars_sound_as_they_did(text, n_bars):
    given, tune = last_bars(text, n_bars), read_abc(text)
    n_all = len(tune.voices[0].bars)
    assert min(n_bars, n_all) <= given.n_bars < n_bars + 4 and given.n_left_out == 0
    wanted, found = set(notes(tune, given.onset)), set(notes(read_abc(given.text)))
    # what was tied is struck again
    assert wanted <= found and {onset for onset, *_ in found - wanted} <= {0}
    assert read_abc(given.text).tempo and check_abc(given.text).meter


def test_a_short_last_bar_stays_away():
    given = last_bars(music(9).rstrip("\n") + "C4D4|\n", 2)
    assert (given.n_bars, given.n_left_out) == (2, 1) and check_abc(given.text).meter
    with pytest.raises(ValueError, match="too short"):
        last_bars(music(1).replace("|", ""), 2)


def test_drums_and_tempos_pass_through_and_a_marker_stands_where_new_bars_begin():
    source = open_file(song(), "song.mid", 6)
    given = last_bars(training_text(source.texts[0]), 4)
    text = given.text + "".join(f"\n[V:{voice}]C12|" for voice in (1, 2))
    score = symusic.Score.from_midi(midi_with_source(text, given, source))
    quarter = score.tpq
    assert [(mark.time, mark.text) for mark in score.markers] == [(4 * 3 * quarter, MARK)]
    assert [(tempo.time, round(tempo.qpm, 1)) for tempo in score.tempos] == [
        (0, 90.0),
        (3 * quarter, 101.5),
    ]
    drums = [
        (note.time, note.pitch, note.velocity)
        for track in score.tracks
        if track.is_drum
        for note in track.notes
    ]
    assert drums == [(3 * quarter * i, 36 + 8 + i, 70 + 8 + i) for i in range(4)]
    pitched = [note.pitch for track in score.tracks if not track.is_drum for note in track.notes]
    assert len(pitched) == 2 * (4 * 3 + 1)


def test_the_mark_in_the_text_is_a_comment():
    given = last_bars(music(8), 4).text
    text = marked(given + "C16|D16|", len(given))
    assert f"|\n% {MARK}\nC16|" in text and notes(read_abc(text)) == notes(
        read_abc(given + "C16|D16|")
    )


@pytest.mark.parametrize(
    "data, name, words",
    [
        (b"", "a.mid", "no bytes"),
        (b"noise", "a.mid", "not midi"),
        (song()[:300], "a.mid", "damaged"),
        (b"words", "a.abc", "no tune"),
        (b"X:1\nK:C\n@@5 9 @;; 0|C|\n", "a.abc", "cannot be read as ABC: line 3"),
        (b"\xff", "a.abc", "no tune"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(data, name, words):
    with pytest.raises(ValueError, match=words):
        open_file(data, name, 6)


# ---------------------------------------------------------------- the script


@pytest.fixture
def go_on(tmp_path, monkeypatch, capsys):
    """Runs `--continue` on a file of this name and content, with a model that plays whole bars of C
    in 4/4; returns the folder with the samples and what was printed."""
    tokenizer = CharTokenizer(music(8) + "16")
    model = Chain(
        tokenizer, {"|": {"C": 1}, "\n": {"C": 1}, "C": {"1": 1}, "1": {"6": 1}, "6": {"|": 1}}
    )
    monkeypatch.setattr(
        models, "open_model", lambda *_: models.LoadedModel(model, tokenizer, "cpu", "")
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data/stats.json").write_text(
        '{"music": {"meters": {"4/4": 7, "13/8": 1}, "voices": {"max": 2}}}'
    )

    def run(name, content, *flags):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        stage07.main(["--root", str(tmp_path), "--continue", str(tmp_path / name), *flags])
        return tmp_path / "part4_outputs/generated", capsys.readouterr().out

    return run


def test_given_and_new_bars_stand_in_one_file_of_each_kind(go_on):
    folder, said = go_on(
        "tune.abc", music(9), "--bars-given", "4", "--bars-new", "3", "--num-samples", "2"
    )
    assert "given: 4 bars of tune.abc" in said
    assert {path.name for path in folder.iterdir()} == {
        *(f"continued_00{i}.{end}" for i in (0, 1) for end in ("abc", "mid", "musicxml", "json")),
        "played.html",
    }
    text = (folder / "continued_001.abc").read_text()
    assert text == last_bars(music(9), 4).text + f"\n% {MARK}\n" + "C16|" * 3 + "\n"
    assert (
        symusic.Score.from_midi((folder / "continued_001.mid").read_bytes()).markers[0].text == MARK
    )
    assert b"<bar-style>light-light" in (folder / "continued_001.musicxml").read_bytes()
    go_on("tune.abc", music(9), "--bars-new", "1")
    assert (folder / "continued_002.abc").exists()


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.abc", tune("C2D4E4F4|" * 4).replace("4/4", "7/8"), "never seen the meter 7/8"),
        ("a.abc", music(4).replace("K:C", "K:F#m"), "characters that the training text lacks: '#'"),
        ("a.abc", music(1)[:-2], "too short"),
        ("a.mid", b"MThd", "damaged"),
        ("a.mxl", b"noise", "score cannot be read"),
        ("a.mid", b"", "no bytes"),
    ],
)
def test_one_sentence_says_why_there_is_no_going_on(go_on, name, content, words):
    with pytest.raises(SystemExit, match=words) as ended:
        go_on(name, content)
    assert str(ended.value).count("\n") == 1


def test_flags_that_make_no_sense_together_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="does not go with"):
        stage07.parse_arguments(["--continue", "a.mid", "--meter", "4/4"])
    for path, words in (
        (tmp_path / "none.mid", "no such file"),
        (tmp_path, "that is a folder"),
        ("", "that is a folder"),
    ):
        with pytest.raises(SystemExit, match=words):
            stage07.parse_arguments(["--continue", str(path)])


def test_a_score_is_gone_on_from(go_on):
    folder, _ = go_on("tune.musicxml", musicxml(read_abc(music(8))), "--bars-new", "2")
    text = (folder / "continued_000.abc").read_text()
    assert text.startswith("X:1\nM:4/4\nL:1/16\nQ:1/4=120\nK:C\n") and text.count("C16|") == 2


def test_abc_of_people_is_gone_on_from_and_what_was_mended_is_said(go_on):
    bars = '"C"C2E2 G2A2|$(C2E2 G2A2|{d}C2&nbsp;E2 G2A2|C2D2 C2D2|!\n'
    text = "X:1\nT:Reel\nM:4/4\nL:1/8\nK:C\n" + bars
    folder, said = go_on("reel.abc", text, "--bars-new", "1")
    assert "given: 4 bars of reel.abc" in said and "1 HTML left-overs" in said
    assert "C4E4G4A4|C4E4G4A4|" in (folder / "continued_000.abc").read_text()


def test_bars_in_a_meter_that_the_model_knows_are_given():
    text = tune("C16|D16|[M:9/8]C16C2|[M:4/4]E16|F16|G16|")
    assert last_bars(text, 8, ["4/4"]).text.endswith("E16|F16|G16|")
    assert last_bars(text, 2, ["4/4"]).n_bars >= 2
    assert last_bars(text, 8).n_bars == 6


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--key", "H"], "is no key"),
        (["--meter", "7/8"], "has never seen the meter 7/8; it knows 4/4, 13/8"),
        (["--meter", "x"], "is no meter"),
    ],
    ids=["key", "unseen", "meter"],
)
def test_what_no_sample_could_be_is_said_before_drawing(tmp_path, flags, words):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/stats.json").write_text('{"music": {"meters": {"4/4": 7, "13/8": 1}}}')
    with pytest.raises(SystemExit, match=words):
        stage07.main(["--root", str(tmp_path), *flags])


@pytest.mark.parametrize(
    "asked, prompt",
    [
        ({"key": "am"}, "X:1\nM:4/4\nL:1/16\nQ:1/4=120\nK:Am\n"),
        ({"key": "Dor"}, "X:1\nM:4/4\nL:1/16\nQ:1/4=120\nK:C\n"),
        ({"meter": "C|"}, "X:1\nM:2/2\nL:1/16\n"),
        ({"prompt": "X:1\\nT:Air\\nM: 6/8\\nL: 1/16\\n"}, "X:1\nM:6/8\nL:1/16\n"),
        (
            {"prompt": "X:1\nT:a\nM:4/4\nL:1/8\nK:C\nC2E2 G4|"},
            "X:1\nM:4/4\nL:1/16\nQ:1/4=120\nK:C\nC4E4G8|",
        ),
        ({"prompt": "X:1\nM:4/4\nL:1/16\nK:C\nC4 E4"}, "X:1\nM:4/4\nL:1/16\nK:C\nC4E4"),
    ],
    ids=["minor", "mode", "cut-time", "title", "eighths", "blanks"],
)
def test_what_is_asked_for_is_set_in_the_form_of_the_training_text(asked, prompt):
    asked = {"prompt": None, "meter": None, "key": None, **asked}
    assert play.prompt_of(**asked, seen={}) == prompt


SIX = "X:1\nM:4/4\nL:1/16\nQ:1/4=96\nK:C\n" + "".join(
    f"[V:{voice}]C4[CE]4^c'2-_B,,3z3|C2(3DEFC12|" for voice in range(1, 7)
)


@pytest.mark.parametrize(
    "begins",
    [
        "[V:1]Z2|",
        "[V:1][M:3/4][K:Gm]C12|C12|[V:2][M:3/4]Z2|",
        "[V:1](3C4D4E4[C-E]8|[V:2](3::2C2DC14|",
    ],
    ids=["rests", "meter", "tuplets"],
)
def test_every_beginning_of_right_bars_is_allowed(begins):
    bars, text = NextBars(SIX, 4), SIX
    for character in "\n" + begins:
        text += character
        assert bars.allows(text), text[len(SIX) :]
        if bars.is_due(character, 0):
            assert bars.judge(text, len(text) - len(SIX), False) == "right"


@pytest.mark.parametrize(
    "bar",
    "[V:2 [V:1]C17 [V:1]C8C9 [V:1]C16C [V:1]C16^ [V:1]C12| [V:1]Z3 [V:1]C16[ [V:1]C15("
    " [V:1](3CD| [V:1]C/ [V:1]z4- [V:1][M:3/3 [V:1][M:0 [V:1]] [V:1]C99 [V:1]C4z8c8".split(" "),
)
def test_what_no_right_bar_begins_with_is_refused_at_its_first_character(bar):
    bars = NextBars(SIX, 4)
    assert bars.allows(f"{SIX}\n{bar[:-1]}") and not bars.allows(f"{SIX}\n{bar}")
    assert not bars.allows(SIX + "[")


@pytest.mark.parametrize(
    "after",
    [
        ["[V:3"],
        ["\n"],
        ["C16|", "C"],
        ["[V:2]Z2"],
        ["[V:2][M"],
        ["[V:2]C16|", "[V:2"],
        ["[V:2]C16|", "C"],
    ],
    ids=["jump", "line", "long-turn", "rests", "meter", "same", "ahead"],
)
def test_voices_follow_the_first_one(after):
    bars, text = NextBars(SIX, 4), SIX
    for bar in ["\n[V:1]C16|", *after[:-1]]:
        text += bar
        assert bars.judge(text, len(text) - len(SIX), False) == "right"
    assert bars.allows(text + after[-1][:-1]) and not bars.allows(text + after[-1])


def test_hardly_a_token_of_six_voices_is_drawn_in_vain(one_thread, monkeypatch):
    tokenizer = CharTokenizer(SIX + "0123456789/=abdefgABDFG")
    model = Chain(tokenizer)  # knows nothing
    steps, step_rows = [], model.step_rows
    monkeypatch.setattr(model, "step_rows", lambda *args: steps.append(1) or step_rows(*args))
    loaded = models.LoadedModel(model, tokenizer, "cpu", "")
    (sample,) = play.continue_tune(loaded, last_bars(SIX, 2), [1], 4, None, {})
    assert sample["stop_reason"] == "bars" and check_abc(sample["text"] + "\n").meter
    assert [len(voice.bars) for voice in read_abc(sample["text"]).voices] == [2 + 4] * 6
    assert len(steps) < 1.2 * sample["new_chars"] and max(sample["draws"]) < 10


def test_a_bar_of_one_voice_is_masked_only_where_rejection_does_not_end():
    tokenizer = CharTokenizer(music(8) + "167")
    never = {"\n": {"C": 1}, "|": {"C": 1}, "C": {"1": 0.999, "|": 0.001}}
    model = Chain(tokenizer, {**never, "1": {"7": 0.999, "6": 0.001}, "6": {"|": 1}, "7": {"|": 1}})
    loaded = models.LoadedModel(model, tokenizer, "cpu", "")
    (sample,) = play.continue_tune(loaded, last_bars(music(8), 8), [1], 2, None, {})
    assert sample["text"].endswith("|C16|C16|") and sample["draws"] == [1 + NextBars.FREE_TRIES] * 2


def test_voices_beyond_the_limit_leave_a_tune_in_normal_form_too():
    source = open_file(long_tune(1, 4).encode(), "a.abc", 2)
    assert len(read_abc(source.texts[0]).voices) == 2
