"""Mends MIDI files before they are read: packed or wrapped ones, a long header, running status
behind a system message, notes that nothing ends, parts that a GS or XG message makes drums.
"""

import re
import zlib
from collections import Counter

MAX_UNPACKED = 16 << 20  # bytes
DRUM_CHANNEL = 9
GS_CHANNELS = (9, *range(9), *range(10, 16))  # of its parts: it counts channel 10 first
SOUND_OFF = 120, 123  # controllers: all sound off, all notes off
END_OF_TRACK = b"\xff\x2f\x00"

# GS: use for rhythm part; XG: part mode. Groups: the part, and 0 for melody
_DRUMS = re.compile(
    rb"\x41.\x42\x12\x40([\x10-\x1f])\x15([\x00-\x7f])"
    rb"|\x43[\x10-\x1f]\x4c\x08([\x00-\x0f])\x07([\x00-\x7f])",
    re.DOTALL,
)


def mend(data):
    """Returns (bytes that a strict reader reads right, Counter of mended faults); bytes that cannot
    be read are only unpacked."""
    counts = Counter()
    data = unpacked(data, counts)
    try:
        header, tracks = chunks(data, counts)
        tracks = [read_track(track, counts) for track in tracks]
    except (ValueError, IndexError):
        return data, Counter()
    mark_drums(data, tracks, counts)
    tracks = [with_ends(events, counts) for events in tracks]
    if counts:
        data = header + b"".join(map(track_chunk, tracks))
    return data, counts


def unpacked(data, counts):
    """Returns the MIDI file in gzip, MacBinary or RMID bytes, other bytes unchanged."""
    if data[:2] == b"\x1f\x8b":
        try:
            inside = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, MAX_UNPACKED)
        except zlib.error:
            return data
        if inside.startswith(b"MThd"):
            data = inside
            counts["packed files"] += 1
    if data[:1] == b"\0" or data[:4] == b"RIFF":
        start = data.find(b"MThd")
        if start > 0:
            data = data[start:]
            counts["wrapped files"] += 1
    return data


def chunks(data, counts):
    """Returns (header chunk of 14 bytes, [bytes of a track]); ValueError if there is no header."""
    size = int.from_bytes(data[4:8], "big")
    if data[:4] != b"MThd" or not 6 <= size <= len(data):
        raise ValueError("no header")
    if size > 6:
        counts["long headers"] += 1
    tracks, at = [], 8 + size
    while data[at : at + 4].isalnum():
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "big")
        if kind == b"MTrk":
            tracks.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    return b"MThd\0\0\0\6" + data[8:10] + len(tracks).to_bytes(2, "big") + data[12:14], tracks


def read_track(data, counts):
    """Returns [(time in ticks, status, data)]; ValueError or IndexError if the bytes are no track.
    The data of a system message include its length."""
    events, at, now, status, is_kept = [], 0, 0, 0, False
    n_bytes = len(data)
    while at < n_bytes:
        delta, start = data[at], at
        if delta < 0x80:
            at += 1
        else:
            delta, at = read_number(data, start)
            if at - start > 4:
                counts["long delta times"] += 1
        now += delta
        byte = data[at]
        if 0x80 <= byte < 0xF0:
            status, is_kept = byte, False
            at += 1
        elif byte >= 0xF0:
            start, at = at, end_of_system(data, at)
            if at > start + 1:
                events.append((now, byte, data[start + 1 : at]))
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
        events.append((now, status, data[at:stop]))
        at = stop
    if at > n_bytes:
        raise ValueError("a message without its end")
    return events


def read_number(data, at):
    """Returns (a number of seven bits a byte, the place after it)."""
    number = 0
    for place in range(at, at + 10):
        number = number << 7 | data[place] & 0x7F
        if data[place] < 0x80:
            return number, place + 1
    raise ValueError("a number without an end")


def end_of_system(data, at):
    """Returns where the system message at a place ends."""
    status = data[at]
    if status not in (0xF0, 0xF7, 0xFF):
        return at + 1 + {0xF1: 1, 0xF2: 2, 0xF3: 1}.get(status, 0)
    size, at = read_number(data, at + (2 if status == 0xFF else 1))
    if at + size > len(data):
        raise ValueError("a message without its end")
    return at + size


def mark_drums(data, tracks, counts):
    """Moves the parts that a GS or XG message makes drums to the channel of drums."""
    is_drums = {}
    for gs_part, gs_mode, xg_part, xg_mode in _DRUMS.findall(data):
        channel = GS_CHANNELS[gs_part[0] & 15] if gs_part else xg_part[0]
        is_drums[channel] = (gs_mode or xg_mode)[0] > 0
    parts = {channel for channel, mode in is_drums.items() if mode} - {DRUM_CHANNEL}
    moved = {kind | part: kind | DRUM_CHANNEL for kind in (0x80, 0x90) for part in parts}
    heard = {status & 15 for events in tracks for _, status, _ in events if status in moved}
    if heard:
        counts["parts made drums by a message"] += len(heard)
        for events in tracks:
            events[:] = [(now, moved.get(status, status), body) for now, status, body in events]


def with_ends(events, counts):
    """Returns events with the note-offs that they lack: at "all notes off", the key's next stroke,
    or the track's end."""
    sounding = Counter()
    for _, status, body in events:  # most tracks lack none and need no second pass
        if status & 0xE0 == 0x80:
            key = status & 15, body[0]
            if status >= 0x90 and body[1]:
                sounding[key] += 1
            elif sounding[key]:
                sounding[key] -= 1
    lacking = set(+sounding)
    if not lacking:
        return events
    open_keys, mended = set(), []

    def end(keys, now):
        for channel, pitch in keys:
            mended.append((now, 0x80 | channel, bytes([pitch, 64])))
            open_keys.discard((channel, pitch))
            counts["notes without an end"] += 1

    for now, status, body in events:
        channel = status & 15
        if status & 0xF0 == 0xB0 and body[0] in SOUND_OFF:
            end(sorted(key for key in open_keys if key[0] == channel), now)
        elif status & 0xE0 == 0x80 and (channel, body[0]) in lacking:
            key = channel, body[0]
            if status >= 0x90 and body[1]:
                end({key} & open_keys, now)
                open_keys.add(key)
            elif key in open_keys:
                open_keys.remove(key)
            else:
                continue
        mended.append((now, status, body))
    end(sorted(open_keys), events[-1][0])
    return mended


def track_chunk(events):
    """Returns a track's chunk, every status written out."""
    parts, before = [], 0
    for now, status, body in events:
        if status == 0xFF and body[:1] == b"\x2f":
            continue
        parts.append(variable_length(now - before) + bytes([status]) + body)
        before = now
    body = b"".join(parts) + b"\0" + END_OF_TRACK
    return b"MTrk" + len(body).to_bytes(4, "big") + body


def variable_length(number):
    """Returns a number of seven bits a byte, at most four bytes."""
    number = min(number, (1 << 28) - 1)
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))
