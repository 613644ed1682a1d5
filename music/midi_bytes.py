"""MIDI files with faults, mended before they are read: bytes in, bytes out.

    data, counts = mend(data)      # counts: {what was mended: how often}, empty for a sound file

Files are old and were made by many programs. What is mended here is what can be read in one way
only: a packed or wrapped file, a long header, running status that goes on behind a system message,
notes that nothing ends, and parts that a GS or XG message makes drums. Anything else stays as it
is, and the strict reader says what is wrong with it.
"""

import re
import zlib
from collections import Counter

MAX_UNPACKED = 16 << 20  # bytes of a gzip file; the largest real song has a twentieth of it
DRUM_CHANNEL = 9
MAC_HEADER = 128  # bytes of a MacBinary header
SOUND_OFF = 120, 123  # controllers: all sound off, all notes off
END_OF_TRACK = b"\xff\x2f\x00"

# GS: use for rhythm part; XG: part mode. Groups: the part, and 0 for melody
_DRUMS = re.compile(
    rb"\x41.\x42\x12\x40([\x10-\x1f])\x15([\x00-\x7f])"
    rb"|\x43[\x10-\x1f]\x4c\x08([\x00-\x0f])\x07([\x00-\x7f])",
    re.DOTALL,
)


def mend(data):
    """(MIDI bytes that a strict reader reads right, Counter of what was mended by kind).

    Bytes that no tolerant reader understands either are returned as they are, but unpacked."""
    counts = Counter()
    data = unpacked(data, counts)
    try:
        header, tracks = chunks(data, counts)
        tracks = [read_track(track, counts) for track in tracks]
    except (ValueError, IndexError):
        return data, Counter()
    mark_drums(data, tracks, counts)
    for events in tracks:
        end_notes(events, counts)
    if not counts:
        return data, counts
    bodies = map(track_bytes, tracks)
    chunk = b"".join(b"MTrk" + len(body).to_bytes(4, "big") + body for body in bodies)
    return header + chunk, counts


def unpacked(data, counts):
    """The MIDI file in gzip, MacBinary or RMID bytes; other bytes as they are."""
    if data[:2] == b"\x1f\x8b":
        try:
            inside = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, MAX_UNPACKED)
        except zlib.error:
            return data
        if inside.startswith(b"MThd"):
            data = inside
            counts["packed files"] += 1
    if data[:1] == b"\0" and data[MAC_HEADER : MAC_HEADER + 4] == b"MThd":
        data = data[MAC_HEADER:]
        counts["wrapped files"] += 1
    return data


def chunks(data, counts):
    """(header chunk of 14 bytes, [bytes of a track]); ValueError if there is no header."""
    size = int.from_bytes(data[4:8], "big")
    if data[:4] != b"MThd" or not 6 <= size <= len(data):
        raise ValueError("no header")
    if size > 6:
        counts["long headers"] += 1
    tracks, at = [], 8 + size
    while data[at : at + 4] == b"MTrk" or data[at : at + 4].isalnum():
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "big")
        if kind == b"MTrk":
            tracks.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    return b"MThd\0\0\0\6" + data[8:10] + len(tracks).to_bytes(2, "big") + data[12:14], tracks


def read_track(data, counts):
    """[[time in ticks, status, data bytes]] of a track; ValueError or IndexError if it is none.

    A status goes on behind system messages, whose data bytes hold their length, too."""
    events, at, now, status, is_kept = [], 0, 0, 0, False
    append, n_bytes = events.append, len(data)
    while at < n_bytes:
        byte = data[at]
        at += 1
        if byte < 0x80:
            now += byte
        else:
            delta, n_more = byte & 0x7F, 1
            while byte >= 0x80:
                byte = data[at]
                at, n_more = at + 1, n_more + 1
                delta = delta << 7 | byte & 0x7F
            now += delta
            if n_more > 4:
                counts["long delta times"] += 1
        byte = data[at]
        if 0x80 <= byte < 0xF0:
            status, is_kept = byte, False
            at += 1
        elif byte >= 0xF0:
            start, at = at, end_of_system(data, at)
            if at > start + 1:
                append([now, byte, data[start + 1 : at]])
            is_kept = byte in (0xF0, 0xF7)
            if data[start:at] == END_OF_TRACK:
                break
            continue
        elif not status:
            raise ValueError("data without a status")
        elif is_kept:
            counts["running status behind a system message"] += 1
            is_kept = False
        stop = at + (1 if 0xC0 <= status < 0xE0 else 2)
        append([now, status, data[at:stop]])
        at = stop
    if at > n_bytes:
        raise ValueError("a message without its end")
    return events


def end_of_system(data, at):
    """Where a system message that begins at a place ends; one of a single byte is skipped."""
    status = data[at]
    if status not in (0xF0, 0xF7, 0xFF):
        return at + 1 + {0xF1: 1, 0xF2: 2, 0xF3: 1}.get(status, 0)
    at += 2 if status == 0xFF else 1
    size, byte = 0, 0x80
    while byte >= 0x80:
        byte = data[at]
        size, at = size << 7 | byte & 0x7F, at + 1
    if at + size > len(data):
        raise ValueError("a message without its end")
    return at + size


def mark_drums(data, tracks, counts):
    """Moves the parts that a GS or XG message makes drums to the channel of drums."""
    drums = set()
    for gs_part, gs_mode, xg_part, xg_mode in _DRUMS.findall(data):
        if gs_part:  # GS counts channel 10 first
            part = gs_part[0] & 15
            channel = DRUM_CHANNEL if part == 0 else part - 1 if part <= DRUM_CHANNEL else part
        else:
            channel = xg_part[0]
        if (gs_mode or xg_mode)[0]:
            drums.add(channel)
        else:
            drums.discard(channel)
    for channel in sorted(drums - {DRUM_CHANNEL}):
        n_moved = 0
        for events in tracks:
            for event in events:
                if event[1] in (0x80 | channel, 0x90 | channel):
                    event[1] = event[1] & 0xF0 | DRUM_CHANNEL
                    n_moved += 1
        if n_moved:
            counts["parts made drums by a message"] += 1


def end_notes(events, counts):
    """Adds the note-offs that a track lacks: at "all notes off", at the next stroke of the same
    key, or at the track's end."""
    sounding, lacking, n_ended = {}, set(), 0
    for _, status, body in events:  # most tracks lack none, and are done after this
        kind = status & 0xF0
        if kind == 0x90 and body[1]:
            key = status & 15, body[0]
            sounding[key] = sounding.get(key, 0) + 1
        elif kind == 0x80 or kind == 0x90:
            key = status & 15, body[0]
            if sounding.get(key):
                sounding[key] -= 1
    lacking = {key for key, n in sounding.items() if n}
    if not lacking:
        return
    open_keys, mended = set(), []

    def end(key, now):
        mended.append([now, 0x80 | key[0], bytes([key[1], 64])])
        open_keys.discard(key)
        return 1

    for now, status, body in events:
        kind, channel = status & 0xF0, status & 15
        key = channel, body[0] if body else None
        if kind == 0xB0 and body[0] in SOUND_OFF:
            for open_key in sorted(open_keys):
                if open_key[0] == channel:
                    n_ended += end(open_key, now)
        elif kind in (0x80, 0x90) and key in lacking:
            if kind == 0x90 and body[1]:
                if key in open_keys:
                    n_ended += end(key, now)
                open_keys.add(key)
            elif key not in open_keys:
                continue
            else:
                open_keys.discard(key)
        mended.append([now, status, body])
    for key in sorted(open_keys):
        n_ended += end(key, events[-1][0])
    events[:] = mended
    counts["notes without an end"] += n_ended


def track_bytes(events):
    """A track's bytes of its events, every status written out."""
    parts, before = [], 0
    for now, status, body in events:
        if status == 0xFF and body[:1] == b"\x2f":
            continue
        parts.append(variable_length(now - before) + bytes([status]) + body)
        before = now
    return b"".join(parts) + b"\0" + END_OF_TRACK


def variable_length(number):
    """A number as MIDI writes delta times, seven bits a byte; at most four bytes.

    >>> variable_length(480).hex()
    '8360'
    """
    number = min(number, (1 << 28) - 1)
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))
