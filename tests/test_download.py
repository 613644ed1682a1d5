"""Stage 01: the same corpus from every kind of source, nothing outside its folder, and clear
refusals."""

import hashlib
import importlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from loopback import (  # noqa: F401 (a fixture)
    FILES,
    HERE,
    break_after,
    corpus,
    download,
    midi,
    server,
    status,
    tar_bytes,
)
from music.abc_mending import split_book
from music.corpus import convert_piece, scores_of, tunes_of
from music.midi_to_abc import convert
from study.prepare import fetch

EXPECTED = {"ABBA/Fernando.mid": midi(1), "ABBA/Waterloo.mid": midi(2), "Björk/Jóga.mid": midi(3)}


def test_folder_tar_and_zip_give_the_same_corpus(tmp_path):
    for name, data in FILES.items():
        path = tmp_path / "music" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "a.tgz").write_bytes(tar_bytes(FILES, "clean_midi/"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in FILES.items():
            archive.writestr(f"clean_midi/{name}", data)
    for source in ("music", "a.tgz", "a.zip"):
        output = download(tmp_path / f"root-{source}", "--source", tmp_path / source)
        assert corpus(tmp_path / f"root-{source}") == EXPECTED, source
        assert "1 not music" in output
    root = tmp_path / "root-music"
    assert "up to date" in download(root, "--source", tmp_path / "music")
    (tmp_path / "music/ABBA/SOS.mid").write_bytes(midi(9))
    download(root, "--source", tmp_path / "music")
    assert len(corpus(root)) == 4


def test_limit_is_a_seeded_sample_not_the_first(tmp_path):
    names = [f"a/{number:03}.mid" for number in range(200)]
    first, again, other = (
        fetch.sample(order, 20, seed) for order, seed in ((names, 0), (names[::-1], 0), (names, 1))
    )
    assert first == again != other and len(first) == 20
    assert first != set(names[:20])
    assert fetch.sample(names, 10, 0) < first


def test_nothing_hostile_leaves_the_folder(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        for name in (
            "../evil.mid",
            "/tmp/evil-abs.mid",
            "a/../../evil.mid",
            "..\\evil.mid",
            "C:\\evil.mid",
            "ok/song.mid",
            "ok/song.mid",
            "ok/SONG.MID",
            "ok/" + "n" * 300 + ".mid",
            "ok/new\nline\x07.mid",
        ):
            member = tarfile.TarInfo(name)
            member.size = len(midi(5))
            tar.addfile(member, io.BytesIO(midi(5)))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("ok/link.mid")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        member = tarfile.TarInfo("ok/deeper/x.mid")  # through a link, had it been made
        member.size = len(midi(6))
        tar.addfile(member, io.BytesIO(midi(6)))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.tar.gz").write_bytes(buffer.getvalue())
    output = download(tmp_path / "out/root", "--source", tmp_path / "in/bad.tar.gz")
    found = corpus(tmp_path / "out/root")
    assert {
        "ok/song.mid",
        "ok/song.1.mid",
        "ok/SONG.2.mid",
        "ok/newline.mid",
        "ok/deeper/x.mid",
    } <= set(found)
    assert len(found) == 6 and all(len(Path(name).name.encode()) <= 210 for name in found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert not Path("/tmp/evil-abs.mid").exists() and "2 link" in output and "2 device" in output


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("AC/DC", "AC/DC"),
        ("a\udce9.mid", "aé.mid"),
        ("..hidden", "hidden"),
        ("\u0007", "untitled"),
        ("x" * 400, 200),
    ],
)
def test_safe_name(name, wanted):
    found = fetch.safe_name(name)
    assert len(found) == wanted if isinstance(wanted, int) else found == wanted


def test_download_resumes_where_it_broke(tmp_path, server):
    server.faults = [break_after(100), status(503, [("Retry-After", "0")]), break_after(50)]
    digest = hashlib.sha256(server.body).hexdigest()
    download(tmp_path, "--source", server.url, "--sha256", digest)
    assert corpus(tmp_path) == EXPECTED
    assert server.requests == [None, "bytes=100-", "bytes=100-", "bytes=150-"]
    assert "up to date" in download(tmp_path, "--source", server.url, "--sha256", digest)


def test_two_versions_are_never_mixed(tmp_path, server):
    def changed(handler):
        server.etag, server.body = '"v2"', tar_bytes({"new/version.mid": midi(7)})

    server.faults = [break_after(100), changed]
    download(tmp_path, "--source", server.url)
    assert corpus(tmp_path) == {"new/version.mid": midi(7)}


@pytest.mark.parametrize(
    "fault, words",
    [
        (status(404), "404"),
        (status(403), "403"),
        ("html", "web page"),
        ("sha", "SHA-256"),
        ("truncated", "damaged"),
        ("closed", "given up"),
    ],
)
def test_refusals_keep_the_old_corpus_valid(tmp_path, server, fault, words):
    (tmp_path / "music/a").mkdir(parents=True)
    (tmp_path / "music/a/b.mid").write_bytes(midi(1))
    root = tmp_path / "root"
    download(root, "--source", tmp_path / "music")
    flags, url = [], server.url
    if fault == "html":
        server.body = b"<!DOCTYPE html><html>Please log in</html>"
    elif fault == "sha":
        flags = ["--sha256", "0" * 64]
    elif fault == "truncated":
        server.body = server.body[:-30]
    elif fault == "closed":
        url = "http://127.0.0.1:9/music.tar.gz"
    else:
        server.faults = [fault]
    output = download(root, "--source", url, *flags, code=1)
    assert words in output and "--source music21" in output
    assert "up to date" in download(root, "--source", tmp_path / "music")


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--source", "/no/such/folder"], "no such file"),
        (["--source", "music21", "--collections", "abba"], "abba"),
        (["--source", "music21", "--limit", "0"], "--limit"),
        (["--source", "x", "--sha256", "12"], "--sha256"),
        (["--source", ""], "--source ''"),
        (["--seed", "-1"], "below 0"),
        (["--seed", "9" * 20], "--seed"),
        (["--root", __file__], "is a file"),
        (["--source", HERE, "--collections", "bach"], "--collections is of --source music21 alone"),
    ],
)
def test_bad_flags_write_nothing(tmp_path, flags, words):
    output = download(tmp_path / "root", *flags, code=1)
    assert words in output and len(output.splitlines()) == 2
    assert not (tmp_path / "root").exists()


def test_a_folder_without_midi_is_refused_and_what_it_holds_is_said(tmp_path):
    (tmp_path / "music").mkdir()
    assert "no music that can be read" in download(
        tmp_path / "root", "--source", tmp_path / "music", code=1
    )
    for number in range(12):
        (tmp_path / f"music/{number}.mid").symlink_to("/etc/passwd")
    output = download(tmp_path / "root", "--source", tmp_path / "music", code=1)
    assert (
        "it holds no music that can be read, only 12 links: give the folder that the links lead to"
        in output
    )


def test_names_that_are_not_utf8_are_taken(tmp_path):
    """As Latin-1, the code of old archives; in the folder's own path they are written with
    escapes."""
    source = os.fsencode(tmp_path) + b"/caf\xe9"
    os.makedirs(source + b"/Bj\xf6rk")
    Path(os.fsdecode(source + b"/Bj\xf6rk/J\xf3ga.rmi")).write_bytes(midi(3))
    output = download(tmp_path / "root", "--source", os.fsdecode(source))
    assert corpus(tmp_path / "root") == {"Björk/Jóga.mid": midi(3)} and "caf\\udce9" in output
    assert "up to date" in download(tmp_path / "root", "--source", os.fsdecode(source))


# ---------------------------------------------------------------- the embedded corpus


HEAD = "X:1\nM:4/4\nL:1/8\nK:G\n"


def as_printed(body):
    """The text that stage 02 makes of a tune of the embedded books."""
    raw = split_book(HEAD + body + "\n")[0][0]
    _, row = convert_piece(("oneills", raw))
    return convert(row.midi)[0].partition("K:G\n")[2].replace("\n", "")


def test_repeats_are_played_once_and_the_last_ending_stays():
    first, second = "G8|" * 8, "^c8|d8|" * 8
    text = as_printed('|:"Gm"' + first + "{a}A8|1 B8:|2 c8||[K:D]|:" + second + ":|")
    assert text == "G16|" * 8 + "A16|c16|[K:D]" + "c16|d16|" * 8


@pytest.mark.parametrize(
    "body, notes",
    [
        ("G2|A8|B6|]", "z12G4|A16|B12z4|"),  # a pickup; the last bar may be short
        # the rest of a short bar is the next pickup
        ("G2|A6:|G2|B6|]", "z12G4|A12G4|B12z4|"),
        ("A8|A6|B8|", "A16|A12z4|B16|"),  # a short bar in the middle
        ("A8|A8|A9|B8|", "A16|A16|[M:9/8]A12-A6|[M:4/4]B16|"),  # an overlong bar
    ],
)
def test_bars_add_up(body, notes):
    assert as_printed(body) == notes


def test_a_chord_that_never_ends_costs_no_notes():
    assert as_printed("A8|B8|[ c8|d8|") == "A16|B16|c16|d16|"


def test_quick_takes_the_default_collections_whole():
    stage01 = importlib.import_module("01_download")
    args = stage01.parse_arguments(["--quick"])
    assert (args.source, args.names, args.limit) == (
        "music21",
        stage01.DEFAULT_COLLECTIONS.split(","),
        None,
    )
    assert len(tunes_of(args.names)) > 4000 and len(scores_of(args.names)) > 400


def test_quick_corpus_is_real_music_with_one_and_with_several_voices(tmp_path):
    symusic = pytest.importorskip("symusic")
    download(tmp_path, "--quick", "--limit", 60)
    files = corpus(tmp_path)
    assert len(files) == 60
    scores = [symusic.Score.from_midi(data) for data in files.values()]
    assert all(
        score.note_num() >= 8 and score.time_signatures and score.key_signatures for score in scores
    )
    assert sum(len(score.tracks) > 1 for score in scores) >= 2


def test_stage_01_runs_where_cores_cannot_be_asked_for(tmp_path, monkeypatch, capsys):
    """macOS has no os.sched_getaffinity."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    stage01 = importlib.import_module("01_download")
    with pytest.raises(SystemExit) as end:
        stage01.main(["--help"])
    assert end.value.code == 0 and "--source" in capsys.readouterr().out
    stage01.main(["--quick", "--collections", "airds", "--limit", "3", "--root", str(tmp_path)])
    assert len(corpus(tmp_path)) == 3
