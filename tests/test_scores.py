"""Scores in: MusicXML and kern are read as printed, sources have names and licences, and one file is
converted by itself."""

import importlib
import io
import tarfile
import zipfile

import pytest

from loopback import corpus, download, midi
from music.kern import read_kern
from music.musicxml_in import read_musicxml
from music.score import TICKS, ScoreError, place_bars, score_midi
from music.scores import convert_score
from starts import HERE, start
from study.prepare import groups
from study.prepare.sources import SOURCES, licence_of, place_of, source_rows

NOTE = "<note>{extra}<pitch><step>{step}</step><octave>4</octave></pitch><duration>{n}</duration></note>"


def note(step, n=1, extra="", after=""):
    """A note of n divisions; extra stands before its pitch, after behind its duration."""
    return NOTE.format(step=step, n=n, extra=extra).replace("</note>", after + "</note>")


def rest(n):
    return f"<note><rest/><duration>{n}</duration></note>"


def xml(*measures, meter="<time><beats>4</beats><beat-type>4</beat-type></time>", head=""):
    """A score of one part in quarter notes."""
    body = "".join(f"<measure>{measure}</measure>" for measure in measures)
    attributes = f"<attributes><divisions>1</divisions>{meter}{head}</attributes>"
    body = body.replace("<measure>", f"<measure>{attributes}", 1)
    text = f'<score-partwise><part-list/><part id="P1">{body}</part></score-partwise>'
    return text.encode()


def events(score):
    """[(measure, onset, length, pitch)] of all voices, times in quarter notes."""
    return sorted(
        (measure, offset / TICKS, length / TICKS, pitch)
        for notes in score.voices.values()
        for measure, offset, length, pitch in notes
    )


FOUR = note("C") + note("D") + note("E") + note("F")


# ---------------------------------------------------------------- MusicXML


@pytest.mark.parametrize(
    "measure, wanted",
    [
        (note("C", 2) + note("E", 2, "<chord/>"), [(0, 0, 2, 60), (0, 0, 2, 64)]),
        (note("C", 1, "<grace/>") + note("D"), [(0, 0, 1, 62)]),
        (note("C", 2, "<cue/>") + note("D"), [(0, 2, 1, 62)]),
        (note("C").replace("<note", '<note print-object="no"') + note("D"), [(0, 1, 1, 62)]),
        (rest(1) + note("D", 0.5), [(0, 1, 0.5, 62)]),
        (
            note("C", 4, after="<voice>1</voice>")
            + "<backup><duration>2</duration></backup>"
            + note("E", 2, after="<voice>2</voice>"),
            [(0, 0, 4, 60), (0, 2, 2, 64)],
        ),
        ("<harmony/><print/>" + note("C"), [(0, 0, 1, 60)]),
    ],
    ids=["chord", "grace", "cue", "hidden", "rest", "two voices", "chord symbol"],
)
def test_a_measure_of_musicxml(measure, wanted):
    assert events(read_musicxml(xml(measure))) == wanted


def test_ties_are_joined_over_bars():
    first, last = '<tie type="start"/>', '<tie type="stop"/>'
    both = last + first
    score = read_musicxml(
        xml(rest(3) + note("C", 1, after=first), note("C", 4, after=both), note("C", after=last))
    )
    assert events(score) == [(0, 3, 6, 60)]


def test_tuplets_are_exact():
    five = "".join(note("C", 1) for _ in range(5))
    score = read_musicxml(xml(five).replace(b"<divisions>1", b"<divisions>5"))
    assert [onset for _, onset, _, _ in events(score)] == [0, 0.2, 0.4, 0.6, 0.8]


def test_instruments_that_transpose_sound_as_they_sound():
    head = "<key><fifths>2</fifths></key><transpose><chromatic>-2</chromatic></transpose>"
    score = read_musicxml(xml(note("D"), head=head))
    assert events(score) == [(0, 0, 1, 60)] and not score.keys


def test_the_parts_of_a_meter_are_added_up():
    time = "<time><beats>3+2</beats><beat-type>8</beat-type></time>"
    assert read_musicxml(xml(note("C"), meter=time)).meters == {0: (5, 8)}


def test_drums_are_counted_and_no_notes():
    stroke = "<note><unpitched/><duration>1</duration></note>"
    score = read_musicxml(xml(note("C") + stroke * 3))
    assert len(events(score)) == 1 and len(score.drums) == 3
    staff = read_musicxml(xml(FOUR, head="<clef><sign>percussion</sign></clef>"))
    assert not staff.voices and len(staff.drums) == 4
    assert "drum notes only" in convert_score("a.xml", xml(stroke)).reason


def test_scores_by_measures_and_with_name_spaces():
    text = xml(FOUR).decode()
    timewise = (
        text.replace("score-partwise", "score-timewise")
        .replace('<part id="P1"><measure>', '<measure><part id="P1">')
        .replace("</measure></part>", "</part></measure>")
    )
    spaced = text.replace("<score-partwise", '<score-partwise xmlns="http://x.org/m"')
    wanted = events(read_musicxml(text.encode()))
    assert events(read_musicxml(timewise.encode())) == wanted
    assert events(read_musicxml(spaced.encode())) == wanted
    utf16 = '<?xml version="1.0" encoding="UTF-16"?>' + text
    assert events(read_musicxml(utf16.encode("utf-16"))) == wanted


@pytest.mark.parametrize(
    "lengths, meters, signatures",
    [
        ([4, 4, 4], {0: (4, 4)}, [(0, 4, 4)]),
        ([1, 4, 4], {0: (4, 4)}, [(0, 1, 4), (1, 4, 4)]),
        ([4, 3, 1, 4], {0: (4, 4)}, [(0, 4, 4)]),
        ([4, 2.5, 4], {0: (4, 4)}, [(0, 4, 4), (4, 5, 8), (6.5, 4, 4)]),
        ([4, 3, 3], {0: (4, 4), 1: (3, 4)}, [(0, 4, 4), (4, 3, 4)]),
        ([4, 2], {0: (4, 4)}, [(0, 4, 4)]),
        ([5, 0, 7], {0: None}, [(0, 5, 4), (5, 7, 4)]),
    ],
    ids=["plain", "pickup", "split bar", "odd bar", "meter change", "short last bar", "free"],
)
def test_bars_stand_where_the_score_has_them(lengths, meters, signatures):
    _, found = place_bars([round(length * TICKS) for length in lengths], meters)
    assert [(at / TICKS, n, d) for at, n, d in found] == signatures


def mxl(data, name="score.xml", container=True):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        if container:
            root = f'<container><rootfiles><rootfile full-path="{name}"/></rootfiles></container>'
            archive.writestr("META-INF/container.xml", root)
        archive.writestr(name, data)
    return buffer.getvalue()


ENTITY = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'


@pytest.mark.parametrize(
    "data, words",
    [
        (ENTITY + xml(FOUR), "entities"),
        ((ENTITY + xml(FOUR)).decode().encode("utf-16"), "entities"),
        (mxl(ENTITY + xml(FOUR)), "entities"),
        (mxl(mxl(xml(FOUR))), "no XML"),
        (mxl(b" " * (65 << 20)), "more than 64 MB"),
        (xml(FOUR).replace(b"<divisions>1", b"<divisions>0"), "number"),
        (xml(FOUR).replace(b"<divisions>1", b"<divisions>1e300"), "number"),
        (xml(FOUR).replace(b"<duration>1", b"<duration>nan"), "number"),
        (xml(*["<print/>"] * 1_000_000), "measures"),
        (xml(*[rest(4)] * 100), "no notes"),
        (xml(*[rest(4)] * 99_000, note("C")), "measures"),
        (b"<html/>", "no score"),
        (b"PK\x03\x04nothing", "unpacked"),
        (b"<a>" * 100_000, "no XML"),
        (b"", "no XML"),
    ],
    ids=(
        "entities, in UTF-16, in an archive, archive in an archive, zeros, no divisions, huge"
        " divisions, no number, a million measures, rests, very long, web page, torn, deep, empty"
    ).split(", "),
)
def test_hostile_musicxml_is_a_reason(data, words):
    row = convert_score("x.mxl", data)
    assert row.midi is None and words in row.reason


def test_an_archive_without_a_container_is_read():
    assert convert_score("x.mxl", mxl(xml(FOUR), container=False)).midi.startswith(b"MThd")


# ---------------------------------------------------------------- kern


def kern(*lines, head="**kern\t**kern"):
    return "\n".join([head, *lines])


@pytest.mark.parametrize(
    "lines, wanted",
    [
        (["4C\t8c", ".\t8d"], [(0, 0, 0.5, 60), (0, 0, 1, 48), (0, 0.5, 0.5, 62)]),
        (["4C 4E\t4r"], [(0, 0, 1, 48), (0, 0, 1, 52)]),
        (["4.C\t[4c", ".\t8c]"], [(0, 0, 1.5, 48), (0, 0, 1.5, 60)]),
        (["=1\t=1", "4C\t[4c", "=2\t=2", "4D\t4c]"], [(0, 0, 1, 48), (0, 0, 2, 60), (1, 0, 1, 50)]),
        (["8qd\t.", "4C\t4c"], [(0, 0, 1, 48), (0, 0, 1, 60)]),
        (
            ["6C\t4r", "6D\t.", "6E\t."],
            [(0, 0, 2 / 3, 48), (0, 2 / 3, 2 / 3, 50), (0, 4 / 3, 2 / 3, 52)],
        ),
        (
            ["*^\t*", "2C\t4E\t2c", ".\t4F\t."],
            [(0, 0, 1, 52), (0, 0, 2, 48), (0, 0, 2, 60), (0, 1, 1, 53)],
        ),
        (["0C\t3%2c"], [(0, 0, 8 / 3, 60), (0, 0, 8, 48)]),
        (["4C#\t4bb-"], [(0, 0, 1, 49), (0, 0, 1, 82)]),
    ],
    ids="voices,chord,tie,tie over a bar,grace,triplet,split,breve,accidentals".split(","),
)
def test_a_moment_of_kern(lines, wanted):
    found = events(read_kern(kern(*lines)))
    assert [row[::3] for row in found] == [row[::3] for row in wanted]
    for row, other in zip(found, wanted):
        assert row[1:3] == pytest.approx(other[1:3], abs=1e-3)


def test_kern_says_what_it_is():
    score = read_kern(
        kern("!!!COM: Moniuszko, Stanisław", "!!!OTL: Kyrie", "!!!OPR: Missa", "*M3/4\t*M3/4")
        + "\n!!!YEM: License CC-BY-4.0\n*k[b-]\t*k[b-]\n*d:\t*d:\n*MM90\t*MM90\n2.D\t2.d\n*-\t*-"
    )
    assert (score.composer, score.title, score.work) == ("Moniuszko, Stanisław", "Kyrie", "Missa")
    assert licence_of(score.rights) == "CC BY 4.0"
    assert score.meters == {0: (3, 4)} and score.keys == {(0, 0): (-1, True)}
    assert list(score.tempos.values()) == [90]


@pytest.mark.parametrize(
    "lines, wanted",
    [
        (["2C\t1.c", "2D\t.", "=\t=", "1E\t.", ".\t2d"], [4, 4]),
        (["2C\t1c", "=\t=", "1D\t.", ".\t2d"], [2, 4]),
        (["2C\t2c", "1.C\t1.c", "=\t=", "1D\t1c", "=\t="], [4, 8]),
        (["4C\t2c", "=-\t=-", "4D\t.", "2E\t2d", "=\t=", "1C\t1c"], [1, 3, 4]),
    ],
    ids=[
        "note over the bar line",
        "bar shorter than its meter",
        "all notes over the line",
        "line within a bar",
    ],
)
def test_a_bar_line_stands_at_the_next_moment(lines, wanted):
    score = read_kern(kern("*M4/4\t*M4/4", *lines))
    assert [length / TICKS for length in score.lengths] == wanted


def test_a_tie_goes_on_over_bars_that_its_note_fills():
    bars = [f"1C\t{token}\n=\t=" for token in ("[00c", ".", ".", ".", "1c]")]
    assert (0, 0, 20, 60) in events(read_kern(kern(*bars)))


def test_most_columns_give_the_meter():
    score = read_kern("**kern\t**kern\t**kern\n*M6/8\t*M6/8\t*M6/4\n2.C\t2.c\t2.e")
    assert score.meters == {0: (6, 8)}


def test_two_movements_in_one_file_follow_each_other():
    score = read_kern(kern("1C\t1c", "*-\t*-", "**kern\t**kern", "1D\t1d", "*-\t*-"))
    assert [row[0] for row in events(score)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "text, words",
    [
        ("4c\t4d", "before any"),
        ("**text\t**text\na\tb", "no **kern"),
        (kern("4c"), "line 2: 1 columns instead of 2"),
        (kern(*["*^\t*" + "\t*" * n for n in range(1000)]), "columns"),
        (kern("0" * 50 + "c\t4r", "=\t=") * 1, ""),
        (kern(*["4r\t4r", "=\t="] * 25_000), "measures"),
        (kern("4r\t4r"), "no notes"),
    ],
    ids=["no kern", "text alone", "torn line", "splits", "long zero", "measures", "rests"],
)
def test_hostile_kern_is_a_reason(text, words):
    row = convert_score("x.krn", text.encode())
    assert words in row.reason and (row.midi is None or not words)


def test_the_two_readers_agree():
    xml_score = read_musicxml(xml(FOUR, FOUR))
    bars = ["4c", "4d", "4e", "4f"]
    kern_score = read_kern("\n".join(["**kern", "*M4/4", *bars, "=", *bars, "*-"]))
    assert events(xml_score) == events(kern_score)
    assert score_midi(xml_score) == score_midi(kern_score)


def test_notes_out_of_range_are_left_out():
    with pytest.raises(ScoreError, match="no notes"):
        score_midi(read_kern("**kern\n4" + "c" * 9))


# ---------------------------------------------------------------- sources


def test_named_sources_know_their_licence():
    assert [row["may_share"] for row in source_rows("openscore")] == [True, True]
    assert source_rows("lakh")[0]["may_share"] is False
    (free,) = source_rows("/my/folder", said=["CC0 1.0"])
    assert free["licence"] == "CC0 1.0" and free["may_share"] is True
    (mixed,) = source_rows("/my/folder", said=["CC0 1.0", "not stated"])
    assert mixed["licence"] == "CC0 1.0, not stated" and mixed["may_share"] is None
    assert source_rows("/my/folder") == [
        {"name": "own files", "licence": "not stated", "url": None, "may_share": None}
    ]
    rows = source_rows("music21", ["bach", "essen"])
    assert [row["may_share"] for row in rows] == [True, False]
    assert all(url.startswith("http") for source in SOURCES.values() for url in source.urls)


def test_a_source_that_forbids_it_is_refused(tmp_path):
    output = download(tmp_path / "root", "--source", "thesession", code=1)
    assert "forbids" in output and not (tmp_path / "root").exists()


def test_layouts_of_sources_become_composer_work_title():
    song = place_of("x-main/scores/Wolf,_Hugo/_/Im_Lenz/lc12.mxl")
    assert song == ("Wolf, Hugo/Im Lenz.mxl", "Wolf, Hugo", "")
    quartet = place_of("openscore/quartets/Wolf,_Hugo/String_Quartet/sq8.mxl")
    assert quartet == ("Wolf, Hugo/String Quartet.mxl", "Wolf, Hugo", "String Quartet")
    name = "pl-kk--kk-i-1--048-002_szadek-tomasz--officium-kyrie.krn"
    assert place_of(f"m/pl-kk/kern/{name}")[1:] == ("Szadek Tomasz", "pl-kk--kk-i-1--048")


def test_music_of_every_kind_comes_in_together(tmp_path):
    """From a folder and from an archive, with what cannot be read counted and named."""
    files = {
        "A/one.mid": midi(1),
        "A/two.musicxml": (
            xml(FOUR, FOUR).replace(
                b"<part-list/>",
                b"<identification><rights>Public (CC0)</rights></identification><part-list/>",
            )
        ),
        "A/three.mxl": mxl(xml(FOUR)),
        "B/four.krn": kern("1C\t1c", "*-\t*-").encode(),
        "B/five.abc": b"X:1\nT:Five\nM:4/4\nL:1/4\nK:G\nGABc|dedc|\n",
        "B/book.abc": b"X:1\nT:Eins\nK:C\nCDEF|\n\nX:2\nT:Zwei\nK:C\nGABc|\n",
        "B/bad.xml": b"<html/>",
        "readme.txt": b"x",
    }
    for name, data in files.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "in", "all")
    wanted = {"A/one", "A/two", "A/three", "B/four", "B/five", "B/book/Eins", "B/book/Zwei"}
    for source in ("in", "a.tar.gz"):
        root = tmp_path / f"root-{source}"
        output = download(root, "--source", tmp_path / source)
        assert {name.removesuffix(".mid") for name in corpus(root)} == wanted
        assert "1 unreadable score" in output and "1 not music" in output
        rows = (root / "data/raw_midi.tsv").read_text().splitlines()
        licences = dict(row.split("\t")[:2] for row in rows[1:])
        assert set(licences) == set(corpus(root)) and licences["A/two.mid"] == "CC0 1.0"
    assert corpus(tmp_path / "root-in") == corpus(tmp_path / "root-a.tar.gz")


def test_one_score_is_a_source(tmp_path):
    (tmp_path / "song.mxl").write_bytes(mxl(xml(FOUR)))
    download(tmp_path / "root", "--source", tmp_path / "song.mxl")
    assert list(corpus(tmp_path / "root")) == ["song.mid"]


# ---------------------------------------------------------------- one file


def convert(*words, code=0):
    done = start([HERE / "02_midi_to_abc.py", *map(str, words)])
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def test_one_file_is_converted_by_itself(tmp_path):
    (tmp_path / "song.xml").write_bytes(xml(FOUR, FOUR))
    assert "CDEF" in convert(tmp_path / "song.xml", "-").replace("4", "")
    convert(tmp_path / "song.xml")
    abc = (tmp_path / "song.abc").read_text()
    assert abc.startswith("X:1\n") and "K:" in abc
    assert "exists" in convert(tmp_path / "song.xml", code=1)
    convert(tmp_path / "song.abc", "--to", "midi", "-o", tmp_path / "out")
    convert(tmp_path / "song.abc", "--to", "musicxml", "-o", tmp_path / "out")
    assert (tmp_path / "out/song.mid").read_bytes().startswith(b"MThd")
    back = read_musicxml((tmp_path / "out/song.musicxml").read_bytes())
    assert events(back) == events(read_musicxml(xml(FOUR, FOUR)))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "name, data, words",
    [
        ("no.mid", None, "No such file"),
        ("a.mid", b"not", "not midi"),
        ("a.krn", b"4c", "before any"),
        ("a.bin", b"", "empty"),
    ],
    ids=["missing", "no MIDI", "no kern", "empty"],
)
def test_a_file_that_cannot_be_converted_is_one_sentence(tmp_path, name, data, words):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert words in convert(tmp_path / name, "-", code=1)


# ---------------------------------------------------------------- groups


def test_songs_of_a_cycle_are_one_group_and_named_by_their_composer():
    def tune(origin):
        return {"origin": origin, "name": groups.path_key(origin)}

    tunes = [
        tune("Schubert, Franz/Winterreise/1 Gute Nacht.abc"),
        tune("Schubert, Franz/Winterreise/02 Die Wetterfahne.abc"),
        tune("Schubert, Franz/Gute Nacht.abc"),
        tune("ABBA/Gute Nacht.abc"),
    ]
    works = {tunes[0]["origin"]: ("Schubert, Franz", "Winterreise, D.911")}
    works[tunes[1]["origin"]] = works[tunes[0]["origin"]]
    works[tunes[2]["origin"]] = ("Schubert, Franz", "")
    groups.name_by_works(tunes, works)
    keys = [[tune.get(key) for tune in tunes] for key in ("name", "work")]
    found = groups.find_groups(keys, [])
    assert found[0] == found[1] == found[2] != found[3]
    assert importlib.import_module("03_tokenize_split").main  # the stage that uses it loads
