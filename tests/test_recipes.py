"""The README's recipes for one's own music, run as they are printed, with small models and little
training."""

import random
import re
import shlex
import shutil

from study.stages.code_key import HERE

import symusic
from test_edits import copy_project

from starts import start

README = (HERE / "README.md").read_text(encoding="utf-8")


def write_songs(folder, n=12):
    """n songs of 32 bars: a tune in one of several keys over a bass."""
    folder.mkdir()
    for number in range(n):
        rng, score = random.Random(number), symusic.Score(480)
        score.time_signatures.append(symusic.TimeSignature(0, 4, 4))
        scale = [rng.choice((60, 62, 65, 67)) + step for step in (0, 2, 4, 5, 7, 9, 11, 12)]
        tune, bass = symusic.Track("tune", 0, False), symusic.Track("bass", 32, False)
        for beat in range(128):
            tune.notes.append(symusic.Note(480 * beat, 480, rng.choice(scale), 80))
            if beat % 4 == 0:
                bass.notes.append(symusic.Note(480 * beat, 1920, rng.choice(scale[:5]) - 24, 80))
        score.tracks.append(tune)
        score.tracks.append(bass)
        (folder / f"song {number}.mid").write_bytes(score.dumps_midi())


def blocks_after(heading):
    """The commands of each code block between a heading of the README and the next, as lists of
    words."""
    section = README[README.index(heading) :].split("\n## ")[0]
    return [
        [
            shlex.split(command, comments=True)
            for line in block.splitlines()
            for command in line.split("&&")
        ]
        for block in re.findall(r"^```\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    ]


def call(project, words, home, **shorter):
    """Runs a command as it is printed, ~ being `home`, with other values for some flags."""
    assert words[0] == "python"
    words = [
        shorter.get(before.strip("-").replace("-", "_"), word.replace("~", str(home)))
        for before, word in zip(words, words[1:])
    ]
    done = start(words, project)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_your_own_music_as_the_readme_says(tmp_path):
    # the first needs a finished run: test_finetune.py
    trained, songs, abc, text = blocks_after("## Your own music")
    assert [len(block) for block in (trained, songs, abc, text)] == [2, 5, 3, 3]
    project, made = copy_project(tmp_path / "project"), "part4_outputs/generated"
    write_songs(tmp_path / "my_midi")
    for words in songs:
        call(project, words, tmp_path, epochs="2")
    assert len(list((project / "mine" / made).glob("play_*.abc"))) == 3
    assert (project / "mine" / made / "played.html").exists()
    (project / "mine/data/abc_notation").rename(tmp_path / "tunes")
    (tmp_path / "text").mkdir()
    for split in ("train", "val", "test"):
        (project / f"mine/data/{split}.txt").rename(tmp_path / f"text/{split}.txt")
    for block in (abc, text):
        shutil.rmtree(project / "mine")
        for words in block:
            call(project, words, tmp_path, only="tiny", model="transformer_tiny", num_samples="1")
        assert len(list((project / "mine" / made).glob("play_*.abc"))) == 1
