"""Stage 02: what of a MIDI file survives in its ABC text, and what no file may do to the run."""

import importlib

import symusic

stage02 = importlib.import_module("02_midi_to_abc")


def midi(*tracks, tpq=480, meters=((0, 4, 4),), keys=()):
    """MIDI bytes; tracks: lists of (onset, duration, pitch) in quarter notes."""
    score = symusic.Score(tpq)
    score.time_signatures.extend([symusic.TimeSignature(int(at * tpq), n, d) for at, n, d in meters])
    score.key_signatures.extend([symusic.KeySignature(0, *key) for key in keys])
    for number, notes in enumerate(tracks):
        track = symusic.Track(program=number)
        track.notes.extend([symusic.Note(round(on * tpq), round(length * tpq), pitch, 80)
                            for on, length, pitch in notes])
        score.tracks.append(track)
    return score.dumps_midi()


def music(data, **options):
    """The lines of ABC after the header."""
    text, _ = stage02.convert(data, "Tune", **options)
    return text.split("\nK:")[1].split("\n")[1:-1]


def test_one_voice_is_written_without_tags():
    assert music(midi([(i, 1, 60 + p) for i, p in enumerate((0, 2, 4, 5, 7))])) == ["C4D4E4F4|G4z12|"]
