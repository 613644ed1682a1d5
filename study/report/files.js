'use strict';
// Files of a tune: MIDI and MusicXML to take away, MIDI to bring along. Time comes in quarter notes (scoreOf).

const MIDI_TICKS = 480, XML_TICKS = 5040; // per quarter note
const FILE_LIMIT = 2e6; // bytes of a MIDI file that is read
const MOST_VOICES = 4;

// ---------------------------------------------------------------- MIDI out

function midiFile(score) {
  const number = (n, bytes) => Array.from({ length: bytes }, (_, i) => n >>> 8 * (bytes - 1 - i) & 255);
  const varied = n => { const out = [n & 127]; while (n >>= 7) out.unshift(n & 127 | 128); return out; };
  const chunk = (name, data) => [...[...name].map(c => c.charCodeAt(0)), ...number(data.length, 4), ...data];
  const ticks = quarters => Math.round(quarters * MIDI_TICKS);
  const track = events => { // [ticks, bytes], in order
    let now = 0;
    const data = [];
    for (const [at, bytes] of events) { data.push(...varied(at - now), ...bytes); now = at; }
    return chunk('MTrk', [...data, 0, 255, 47, 0]);
  };
  const tempos = new Map([[0, score.tempo], ...score.reader.tempos.map(([at, tempo]) => [ticks(at / TICKS), tempo])]);
  const head = [...tempos].sort((a, b) => a[0] - b[0])
    .map(([at, tempo]) => [at, [255, 81, 3, ...number(Math.round(6e7 / Math.min(Math.max(tempo, 4), 960)), 3)]]);
  const meter = /^(\d+)\/(\d+)$/.exec(score.reader.fields.M || '');
  if (meter) head.unshift([0, [255, 88, 4, Number(meter[1]) & 255, Math.log2(meter[2]) & 255, 24, 8]]);
  const tracks = [track(head)];
  score.voices.forEach((_, v) => {
    const events = [], channel = (v % 15) + (v % 15 > 8);
    for (const note of score.notes) if (note.voice === v) {
      const on = ticks(note.onset), off = Math.max(on + 1, ticks(note.onset + note.duration));
      events.push([on, [144 | channel, note.pitch, 80]], [off, [128 | channel, note.pitch, 0]]);
    }
    tracks.push(track(events.sort((a, b) => a[0] - b[0] || a[1][0] - b[1][0])));
  });
  return Uint8Array.from([...chunk('MThd', [...number(1, 2), ...number(tracks.length, 2), ...number(MIDI_TICKS, 2)]),
    ...tracks.flat()]);
}

// ---------------------------------------------------------------- MusicXML out

// [letter, alteration, octave] of a pitch in a key of so many sharps: as music/theory.py spells.
function spell(pitch, sharps) {
  const mod = (a, n) => (a % n + n) % n, at = place => [FIFTHS[mod(place + 1, 7)], Math.floor((place + 1) / 7)];
  const place = sharps - 3 + mod(7 * pitch - sharps + 3, 12);
  let [letter, alteration] = at(place);
  if (Math.abs(alteration) > 1) [letter, alteration] = at(place + (alteration > 0 ? -12 : 12));
  return [letter, alteration, Math.floor((pitch - alteration) / 12) - 1];
}

function noteType(quarters) { // [MusicXML's name, dots, in a triplet] or null
  const names = { 4: 'whole', 2: 'half', 1: 'quarter', 0.5: 'eighth', 0.25: '16th', 0.125: '32nd', 0.0625: '64th' };
  for (const [factor, dots, triplet] of [[1, 0, false], [2 / 3, 1, false], [1.5, 0, true]]) {
    const name = names[Math.round(quarters * factor * 1e6) / 1e6];
    if (name) return [name, dots, triplet];
  }
  return null;
}

function musicXml(score) {
  const out = ['<?xml version="1.0" encoding="UTF-8"?>', '<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 ' +
    'Partwise//EN" "http://www.musicxml.org/dtds/partwise.dtd">', '<score-partwise version="4.0"><part-list>'];
  score.voices.forEach((_, v) => out.push(`<score-part id="P${v + 1}"><part-name>Voice ${v + 1}</part-name></score-part>`));
  out.push('</part-list>');
  const units = quarters => Math.round(quarters * XML_TICKS);
  score.voices.forEach((voice, v) => {
    const own = score.notes.filter(note => note.voice === v);
    const mean = own.reduce((sum, note) => sum + note.pitch, 0) / (own.length || 1);
    let sharps = null, length = null;
    out.push(`<part id="P${v + 1}">`);
    score.bars.forEach((bar, i) => {
      const part = bar.parts[v], key = part ? part.key.reduce((sum, a) => sum + a, 0) : sharps ?? 0;
      const meter = part && part.meter, attributes = [];
      out.push(`<measure number="${i + 1}">`);
      if (key !== sharps) attributes.push(`<key><fifths>${Math.max(-7, Math.min(7, key))}</fifths></key>`);
      if (meter && meter !== length) {
        const match = /^(\d+)\/(\d+)$/.exec(length === null && score.reader.fields.M || '');
        const [beats, kind] = match ? match.slice(1) : [Math.round(meter / TICKS * 4), 16];
        attributes.push(`<time><beats>${Number(beats)}</beats><beat-type>${Number(kind)}</beat-type></time>`);
        length = meter;
      }
      sharps = key;
      const clef = mean < 55 ? '<clef><sign>F</sign><line>4</line></clef>' : '<clef><sign>G</sign><line>2</line></clef>';
      if (!i) out.push(`<attributes><divisions>${XML_TICKS}</divisions>${attributes.join('')}${clef}</attributes>`);
      else if (attributes.length) out.push(`<attributes>${attributes.join('')}</attributes>`);
      if (!i && !v) out.push(`<sound tempo="${Number(score.tempo.toFixed(2))}"/>`);
      const end = bar.onset + bar.length, inBar = own.filter(note => note.onset < end - 1e-9 && note.onset + note.duration > bar.onset + 1e-9);
      const edges = [...new Set([bar.onset, end, ...inBar.flatMap(note => [note.onset, note.onset + note.duration])]
        .filter(at => at >= bar.onset && at <= end).map(at => units(at)))].sort((a, b) => a - b);
      edges.slice(0, -1).forEach((from, e) => {
        const to = edges[e + 1], heads = inBar.filter(note => units(note.onset) <= from && units(note.onset + note.duration) >= to);
        const type = noteType((to - from) / XML_TICKS), look = type ? `<type>${type[0]}</type>${'<dot/>'.repeat(type[1])}` +
          (type[2] ? '<time-modification><actual-notes>3</actual-notes><normal-notes>2</normal-notes></time-modification>' : '') : '';
        if (!heads.length) out.push(`<note><rest/><duration>${to - from}</duration><voice>1</voice>${look}</note>`);
        heads.sort((a, b) => a.pitch - b.pitch).forEach((note, h) => {
          const [letter, alter, octave] = spell(note.pitch, sharps);
          const tied = [units(note.onset) < from && 'stop', units(note.onset + note.duration) > to && 'start'].filter(Boolean);
          out.push('<note>' + (h ? '<chord/>' : '') + `<pitch><step>${letter}</step>` + (alter ? `<alter>${alter}</alter>` : '') +
            `<octave>${octave}</octave></pitch><duration>${to - from}</duration>` + tied.map(t => `<tie type="${t}"/>`).join('') +
            `<voice>1</voice>${look}` + (tied.length ? `<notations>${tied.map(t => `<tied type="${t}"/>`).join('')}</notations>` : '') + '</note>');
        });
      });
      out.push('</measure>');
    });
    out.push('</part>');
  });
  return out.join('\n') + '\n</score-partwise>\n';
}

// ---------------------------------------------------------------- MIDI in

// {notes: [[tick, ticks, pitch, voice]], perQuarter, meter, tempo, sharps}; Error says what is wrong. Drums are left out.
function readMidi(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const name = at => at + 8 <= bytes.length ? String.fromCharCode(...bytes.subarray(at, at + 4)) : '';
  if (bytes.length > FILE_LIMIT) throw new Error('the file is larger than 2 MB');
  if (bytes.length < 14 || name(0) !== 'MThd') throw new Error('it is no MIDI file');
  const perQuarter = view.getUint16(12);
  if (!perQuarter || perQuarter & 0x8000) throw new Error('its time is counted in video frames');
  const notes = [], found = { perQuarter, meter: null, tempo: null, sharps: null };
  for (let at = 8 + view.getUint32(4), track = 0; name(at); track++) {
    const stop = Math.min(bytes.length, at + 8 + view.getUint32(at + 4)), open = new Map();
    const isTrack = name(at) === 'MTrk';
    let place = at + 8, now = 0, status = 0;
    at = stop;
    if (!isTrack) continue;
    const varied = () => { let n = 0; for (let i = 0; i < 4 && place < stop; i++) { const b = bytes[place++]; n = n * 128 + (b & 127); if (b < 128) break; } return n; };
    while (place < stop) {
      now += varied();
      if (bytes[place] & 128) status = bytes[place++];
      if (status === 255) {
        const kind = bytes[place++], n = varied(), data = bytes.subarray(place, Math.min(place + n, stop));
        if (kind === 81 && n === 3 && !found.tempo) found.tempo = 6e7 / ((data[0] << 16 | data[1] << 8 | data[2]) || 5e5);
        if (kind === 88 && n >= 2 && !found.meter && data[0] && data[1] < 6) found.meter = `${data[0]}/${2 ** data[1]}`;
        if (kind === 89 && n >= 1 && found.sharps === null) found.sharps = data[0] << 24 >> 24;
        place += n;
      } else if (status === 240 || status === 247) place += varied();
      else if (status >= 128 && status < 240) {
        const kind = status >> 4, channel = status & 15, one = bytes[place++] & 127;
        const two = kind === 12 || kind === 13 ? 0 : bytes[place++] & 127, id = channel * 128 + one;
        if (channel === 9 || kind !== 8 && kind !== 9) continue;
        if (open.has(id)) { notes.push([open.get(id), now - open.get(id), one, track * 16 + channel]); open.delete(id); }
        if (kind === 9 && two) open.set(id, now);
      } else break; // no status byte: the track is damaged
    }
  }
  if (!notes.length) throw new Error('it has no notes');
  return { ...found, notes };
}

// ABC of a MIDI file, on a grid of sixteenth notes: at most MOST_VOICES voices, those with the most notes.
function abcOfMidi(bytes) {
  const midi = readMidi(bytes), grid = tick => Math.round(tick * 4 / midi.perQuarter);
  const counts = new Map();
  for (const note of midi.notes) counts.set(note[3], (counts.get(note[3]) || 0) + 1);
  const mean = voice => { const own = midi.notes.filter(note => note[3] === voice); return own.reduce((sum, n) => sum + n[2], 0) / own.length; };
  const voices = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a)).slice(0, MOST_VOICES).sort((a, b) => mean(b) - mean(a));
  let meter = midi.meter || '4/4', bar = parseMeter(meter)[0] * 4 / TICKS;
  if (bar !== Math.round(bar)) { meter = '4/4'; bar = 16; }
  const heard = Array(12).fill(0);
  for (const note of midi.notes) heard[note[2] % 12]++;
  const share = sharps => SEMITONES.reduce((sum, step) => sum + heard[((step + 7 * sharps) % 12 + 12) % 12], 0);
  let sharps = 0;
  for (let n = -5; n < 7; n++) if (share(n) > share(sharps)) sharps = n;
  const key = ['Db', 'Ab', 'Eb', 'Bb', 'F', 'C', 'G', 'D', 'A', 'E', 'B', 'F#'][sharps + 5];
  const parts = voices.map(voice => { // [onset, end, pitches] on the grid: one after the other
    const byOnset = new Map();
    for (const [tick, ticks, pitch, own] of midi.notes) if (own === voice) {
      const onset = grid(tick), end = Math.max(onset + 1, grid(tick + ticks)), old = byOnset.get(onset);
      byOnset.set(onset, old ? [onset, Math.max(end, old[1]), old[2].add(pitch)] : [onset, end, new Set([pitch])]);
    }
    const events = [...byOnset.values()].sort((a, b) => a[0] - b[0]);
    events.forEach((event, i) => { if (i + 1 < events.length) event[1] = Math.min(event[1], events[i + 1][0]); });
    return events;
  });
  const end = Math.max(...parts.flat().map(event => event[1]));
  if (end > 20000) throw new Error('it is longer than 20,000 sixteenth notes');
  const nBars = Math.ceil(end / bar), lines = [`X:1\nM:${meter}\nL:1/16\nQ:1/4=${Math.round(midi.tempo || 120)}\nK:${key}`];
  const bars = parts.map(events => Array.from({ length: nBars }, (_, i) => barText(events, i * bar, (i + 1) * bar, sharps)));
  for (let i = 0; i < nBars; i += TURN_BARS) {
    lines.push(bars.map((own, v) => (voices.length > 1 ? `[V:${v + 1}]` : '') + own.slice(i, i + TURN_BARS).join('')).join(''));
  }
  return lines.join('\n') + '\n';
}

function barText(events, from, to, sharps) {
  const inForce = new Map(), signature = keyAlterations(sharps);
  let text = '', now = from;
  const sign = { '-1': '_', 0: '=', 1: '^' };
  for (const [onset, end, pitches] of events) {
    if (end <= from || onset >= to) continue;
    const start = Math.max(onset, from), stop = Math.min(end, to), length = stop - start;
    if (start > now) text += 'z' + (start - now > 1 ? start - now : '');
    const heads = [...pitches].sort((a, b) => a - b).map(pitch => {
      const [letter, alter, octave] = spell(pitch, sharps), name = letter + octave;
      const known = inForce.get(name) ?? signature[LETTERS.indexOf(letter)];
      const written = octave > 4 ? letter.toLowerCase() + "'".repeat(octave - 5) : letter + ','.repeat(4 - octave);
      inForce.set(name, alter);
      return (known === alter && onset >= from ? '' : sign[alter]) + written;
    });
    const size = (length > 1 ? length : '') + (end > to ? '-' : '');
    text += heads.length > 1 ? `[${heads.join('')}]${size}` : heads[0] + size;
    now = stop;
  }
  return text + (now < to ? 'z' + (to - now > 1 ? to - now : '') : '') + '|';
}
