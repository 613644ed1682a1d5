'use strict';
// ABC as music/abc_text.py, abc_bar.py and abc_fields.py read it, and the judge of music/right_bars.py: whether the
// bar that a text ends with is right. The cases of tests/right_bars_cases.json are asked of both languages.
// Time is counted in whole ticks, TICKS to the quarter note.

const TICKS = 2 ** 8 * 3 ** 3 * 5 * 7 * 11 * 13, WHOLE = 4 * TICKS;
const MAX_LENGTH = 256 * WHOLE, MAX_REST_BARS = 60000, MAX_VOICES = 99, MAX_CHARS = 600;
const LETTERS = 'CDEFGAB', SEMITONES = [0, 2, 4, 5, 7, 9, 11], FIFTHS = 'FCGDAEB';
const SIGNS = { '^^': 2, '^': 1, '=': 0, '_': -1, '__': -2 };
const MODES = { '': 0, maj: 0, ion: 0, mix: -1, lyd: 1, m: -3, min: -3, aeo: -3, dor: -2, phr: -4, loc: -5 };

// ---------------------------------------------------------------- fields

const KEY_REST = new RegExp('^[ \\t]*(exp\\b)?((?:[ \\t]*(?:\\^\\^?|__?|=)[A-Ga-g])*)' +
  '(?:[ \\t]*(?:(?:clef|middle|m|stafflines|name|style|octave|transpose|t)[ \\t]*=[ \\t]*\\S+|' +
  '(?:treble|bass|alto|tenor|perc|none)\\d?(?:[+-]8)?))*[ \\t]*$');
const STAFF_WORDS = ['clef', 'exp', 'middle', 'treble', 'bass', 'alto', 'tenor', 'perc', 'octave', 'transpose'];

function transposes(text) {
  const shift = /(?:octave|transpose|\bt)[ \t]*=[ \t]*([^\s]+)|(?:treble|bass|alto|tenor)\d?[+-]8/.exec(text);
  return shift !== null && shift[1] !== '0' && shift[1] !== '+0';
}

// Alterations of C D E F G A B in a key of so many sharps (or minus flats).
function keyAlterations(sharps) {
  const alterations = Array(7).fill(0);
  for (let place = sharps - 1; place < sharps + 6; place++) {
    alterations[LETTERS.indexOf(FIFTHS[((place + 1) % 7 + 7) % 7])] = Math.floor((place + 1) / 7);
  }
  return alterations;
}

// The alterations of a K: value; null if it is none. parseMeter and parseUnit: ticks, undefined if there are none.
function parseKey(text) {
  text = text.slice(0, 200).trim();
  if (transposes(text)) return null;
  if (/^H[Pp]/.test(text) && KEY_REST.test(text.slice(2))) {
    return text[1] === 'P' ? Array(7).fill(0) : [1, 0, 0, 1, 0, 0, 0];
  }
  if (text === 'none' || /^(clef[ \t]*=|none[ \t])/.test(text) && KEY_REST.test(text)) return Array(7).fill(0);
  const match = /^([A-G])([#b]?)[ \t]*([A-Za-z]*)/.exec(text);
  if (!match) return null;
  let word = match[3], mode = word === 'm' ? word : word.toLowerCase().slice(0, 3), end = match[0].length;
  if (STAFF_WORDS.includes(word.toLowerCase())) { mode = ''; end -= word.length; }
  else if (!(mode in MODES) && word === 'M') mode = 'maj';
  const rest = KEY_REST.exec(text.slice(end));
  if (!(mode in MODES) || !rest) return null;
  const sharps = FIFTHS.indexOf(match[1]) - 1 + 7 * ({ '#': 1, b: -1 }[match[2]] || 0) + MODES[mode];
  if (Math.abs(sharps) > 7) return null;
  const alterations = rest[1] ? Array(7).fill(0) : keyAlterations(sharps);
  for (const [, sign, letter] of (rest[2] || '').matchAll(/(\^\^?|__?|=)([A-Ga-g])/g)) {
    alterations[LETTERS.indexOf(letter.toUpperCase())] = SIGNS[sign];
  }
  return alterations;
}

function parseMeter(text) { // [ticks of a bar or null, compound]
  text = text.slice(0, 60).trim();
  if (text === 'C' || text === 'C|') return [WHOLE, false];
  if (text === 'none' || text === '') return [null, false];
  const match = /^\(?[ \t]*(\d{1,3}(?:[ \t]*\+[ \t]*\d{1,3})*)[ \t]*\)?[ \t]*\/[ \t]*(\d{1,3})$/.exec(text);
  if (!match) return undefined;
  const beats = match[1].split('+').reduce((sum, n) => sum + Number(n), 0), kind = Number(match[2]);
  if (!(beats > 0 && beats <= 256 && [1, 2, 4, 8, 16, 32, 64, 128].includes(kind))) return undefined;
  return [beats * WHOLE / kind, beats % 3 === 0 && beats > 3 && kind >= 8];
}

function parseUnit(text) {
  const match = /^(\d{1,3})(?:[ \t]*\/[ \t]*(\d{1,3}))?$/.exec(text.slice(0, 20).trim());
  const over = match ? Number(match[1]) : 0, under = match ? Number(match[2] || 1) : 1;
  if (!(over > 0 && over <= 4 && under > 0 && under <= 512) || under & under - 1) return undefined;
  return WHOLE * over / under;
}

// Quarter notes per minute of a Q: value, null if it holds words only, undefined if it is none.
function parseTempo(text, unit = WHOLE / 8) {
  text = text.slice(0, 200);
  const bare = text.replace(/"[^"]*"/g, ' ').trim();
  if (!bare) return text.trim() ? null : undefined;
  const match = /^(?:((?:\d{1,3}\/\d{1,3}[ \t]*)+|C(?:\d{1,2}(?:\/\d{1,2})?)?)[ \t]*=[ \t]*)?(\d{1,4}(?:\.\d{1,6})?)$/
    .exec(bare);
  if (!match || !Number(match[2])) return undefined;
  const fraction = part => { const [over, under = 1] = part.split('/').map(Number); return over / under; };
  let quarters;
  if (!match[1] || match[1][0] === 'C') {
    const many = (match[1] || '').slice(1);
    quarters = unit / TICKS * (many && /[1-9]/.test(many.split('/').pop()) ? fraction(many) : 1);
  } else {
    const parts = match[1].trim().split(/\s+/);
    if (parts.some(part => !Number(part.split('/')[1]))) return undefined;
    quarters = 4 * parts.reduce((sum, part) => sum + fraction(part), 0);
  }
  return quarters ? quarters * Number(match[2]) : undefined;
}

// ---------------------------------------------------------------- one stretch of music

const NOTE = "(?:\\^\\^?|__?|=)?[A-Ga-g](?:'{1,8}|,{1,8})?", LENGTH = '\\d{0,6}(?:/{1,8}\\d{0,6})?';
const TOKEN = new RegExp(Object.entries({ // the order decides: `[CE]` is a chord before `[1` is an ending
  note: `${NOTE}${LENGTH}-?`,
  space: '[ \\t`]+',
  rest: `[zx]${LENGTH}`,
  chord: `\\[(?:${NOTE}${LENGTH}-?|[ \\t.~HLMOPSTuv]|![^!\\[\\]|]*!)+\\]${LENGTH}-?`,
  tuplet: '\\(\\d(?::\\d?(?::\\d{0,2})?)?',
  broken: '>{1,3}|<{1,3}',
  slur: '[()]',
  ending: '\\[\\d(?:[-,]?\\d){0,8}',
  full: '[ZX]\\d{0,4}',
  quote: '"[^"]*"',
  grace: '\\{/?[^{}]*\\}',
  mark: '[.~HLMOPSTuv]|![^!|\\n]{1,40}!|\\+[A-Za-z0-9.()<>]{1,40}\\+',
  spacer: 'y\\d{0,6}(?:/\\d{0,2})?',
  unreadable: '[\\s\\S]',
}).map(([kind, pattern]) => `(?<${kind}>${pattern})`).join('|'), 'g');
const HEAD = new RegExp(`(\\^\\^?|__?|=)?([A-Ga-g])([',]*)(${LENGTH})(-?)`, 'g');
const GRACE = new RegExp(`^/?(?:${NOTE}${LENGTH}|[ \\t()\\->.~HLMOPSTuv]|\\[(?:${NOTE}${LENGTH})+\\]${LENGTH})*$`);
const TUPLET_TIME = { 2: 3, 3: 2, 4: 3, 6: 2, 8: 3 };

function fractionOf(text) { // `3/2` -> [3, 2], `//` -> [1, 4]
  const slash = text.indexOf('/');
  if (slash < 0) return [text ? Number(text) : 1, 1];
  const over = text.slice(0, slash), under = text.slice(slash + 1), digits = under.replace(/^\/+/, '');
  const halves = under.length - digits.length + 1;
  return [over ? Number(over) : 1, digits && halves === 1 ? Number(digits) : digits ? 0 : 2 ** halves];
}

function readHead([text, sign, letter, marks, length, tie], at) {
  const octave = (letter < 'a' ? 5 : 6) + marks.split("'").length - marks.split(',').length;
  const place = LETTERS.indexOf(letter.toUpperCase()), [over, under] = fractionOf(length);
  return { place, step: 7 * octave + place, natural: 12 * octave + SEMITONES[place],
    alteration: sign ? SIGNS[sign] : null, over, under, tied: tie !== '', at, chars: text.length };
}

const headsOf = (text, at) => [...text.matchAll(HEAD)].map(match => readHead(match, at + match.index));

// Reads a stretch of a voice without bar lines and fields, from the voice's time on: adds its notes, returns its
// errors. at: its place in the text. `broken` and tuplets hold within the stretch only.
function readStretch(voice, text, at) {
  const errors = [];
  let tupletLeft = 0, tupletOver = 1, tupletUnder = 1, broken = 0, last = null, rests = 0, timed = false, heads = 0;

  const ticksOf = (over, under) => {
    const length = voice.unit * over;
    if (!over || !under || length > MAX_LENGTH * under || length % under) { errors.push('length'); return 0; }
    return length / under;
  };
  const inChord = (head, first, ticks) => {
    if (head.over === first.over && head.under === first.under || !head.under || !first.over) return ticks;
    if (!head.over) errors.push('length');
    return Math.floor(ticks * head.over * first.under / (head.under * first.over));
  };
  const pitchOf = head => { // [pitch, the open tie that it continues]
    const open = voice.ties.find(tie => head.alteration === null && tie.step === head.step);
    if (open) return [open.pitch, open];
    const alteration = head.alteration ?? voice.alterations[head.place];
    if (head.alteration !== null) voice.alterations[head.place] = alteration;
    const pitch = head.natural + alteration;
    const tie = voice.ties.find(other => other.step === head.step && other.pitch === pitch);
    if (tie) return [pitch, tie];
    if (pitch < 0 || pitch > 127) errors.push('pitch');
    return [Math.min(Math.max(pitch, 0), 127), null];
  };
  const sound = (found, over, under, allTied) => {
    if (rests) errors.push('token');
    timed = true;
    if (tupletLeft) { over *= tupletOver; under *= tupletUnder; tupletLeft--; }
    if (broken) {
      const short = 2 ** Math.abs(broken);
      over *= broken > 0 ? 1 : 2 * short - 1;
      under *= short;
      broken = 0;
    }
    const ticks = ticksOf(over, under), touched = [], open = [];
    for (const head of found) {
      const [pitch, tie] = pitchOf(head), length = head === found[0] ? ticks : inChord(head, found[0], ticks);
      let note;
      if (tie) {
        voice.ties.splice(voice.ties.indexOf(tie), 1);
        note = tie.note;
        note.duration += length;
      } else {
        note = { onset: voice.now, duration: length, pitch, at: head.at, chars: head.chars };
        voice.notes.push(note);
      }
      touched.push([note, tie ? ticks : null]);
      if (head.tied || allTied) open.push({ step: head.step, pitch, note });
    }
    heads += found.length;
    voice.ties = open;
    last = { ticks, touched };
    voice.now += ticks;
  };

  for (const match of text.matchAll(TOKEN)) {
    const kind = Object.keys(match.groups).find(name => match.groups[name] !== undefined), token = match[0];
    const here = at + match.index;
    if (kind === 'note') {
      const [head] = headsOf(token, here);
      sound([head], head.over, head.under, false);
    } else if (kind === 'rest') sound([], ...fractionOf(token.slice(1)), false);
    else if (kind === 'chord') {
      const end = token.lastIndexOf(']'), after = token.slice(end + 1);
      const inside = token.slice(0, end).replace(/![^!]*!/g, words => ' '.repeat(words.length));
      const found = headsOf(inside, here), [over, under] = fractionOf(after.replace(/-$/, ''));
      if (!found.length) errors.push('chord');
      else sound(found, over * found[0].over, under * found[0].under, after.endsWith('-'));
    } else if (kind === 'tuplet') {
      if (tupletLeft) errors.push('tuplet');
      const [p, q = '', r = ''] = token.slice(1).split(':');
      const bad = Number(p) < 2 || q === '0' || /^0+$/.test(r);
      tupletOver = q ? Number(q) : TUPLET_TIME[p] || (voice.compound ? 3 : 2);
      tupletUnder = Number(p);
      tupletLeft = bad ? 0 : r ? Number(r) : Number(p);
      if (bad) { errors.push('tuplet'); tupletOver = tupletUnder = 1; }
    } else if (kind === 'broken') {
      if (!last || broken) { errors.push('broken rhythm'); continue; }
      broken = token[0] === '>' ? token.length : -token.length;
      const short = 2 ** token.length, over = broken > 0 ? 2 * short - 1 : 1;
      const longer = Math.floor(last.ticks * over / short);
      if (last.ticks * over % short) errors.push('length');
      for (const [note, tied] of last.touched) {
        note.duration = tied === null ? Math.floor(note.duration * over / short) : note.duration + longer - last.ticks;
      }
      voice.now += longer - last.ticks;
    } else if (kind === 'slur') {
      if (token === '(') voice.slur++;
      else if (voice.slur) voice.slur--;
      else errors.push('slur');
    } else if (kind === 'full') {
      if (timed || rests) errors.push('token');
      rests = token.length > 1 ? Number(token.slice(1)) : 1;
      if (!rests) errors.push('length');
    } else if (kind === 'grace') {
      const inside = token.slice(1, -1);
      if (!GRACE.test(inside) || !inside.replace(/[/ \t]/g, '')) { errors.push('grace'); continue; }
      for (const head of headsOf(inside, 0)) {
        if (head.alteration !== null) voice.alterations[head.place] = head.alteration;
      }
    } else if (kind === 'unreadable') errors.push('token');
  }
  if (tupletLeft) errors.push('tuplet');
  if (broken) errors.push('broken rhythm');
  return { errors, rests, heads, timed: timed || rests > 0 };
}

// ---------------------------------------------------------------- a text

const DIVIDER = new RegExp('(?<quote>"[^"]*")|(?<mark>![^!|]{1,40}!|\\(\\d:\\d?:?)' +
  '|\\[(?<field>[A-Za-z]):(?<value>[^\\[\\]|]*)\\]' +
  '|(?<bar>\\.?(?::+(?:\\|[\\]|:]*)?|\\|[\\]|:]*|\\[\\|[\\]|:]*)(?:\\d(?:[-,]?\\d){0,8})?)', 'g');

function cleanLine(line, keepLeft = false) {
  let percent = line.indexOf('%');
  while (percent > 0 && line[percent - 1] === '\\') percent = line.indexOf('%', percent + 1);
  if (percent >= 0) line = line.slice(0, percent);
  line = line.trimEnd();
  if (line.endsWith('\\')) line = line.slice(0, -1).trimEnd();
  return keepLeft ? line : line.trimStart();
}

function bodyStart(text) {
  const match = /^K:[^\n]*\n/m.exec(text);
  return match ? match.index + match[0].length : 0;
}

// Reads any text. voices: [{name, notes: [{onset, duration, pitch, at, chars}], bars}] of those that sound; a bar is
// {onset, length, meter, start, end, ok, heads, closing, closed, voice, key}; order: bars as they stand in the text.
class Reader {
  constructor(text) {
    this.text = text;
    this.errors = [];
    this.headerErrors = this.restBars = this.bodyFrom = 0;
    this.fields = {};
    this.all = new Map();
    this.order = [];
    this.tempos = [];
    this.voice = null;
    this.key = Array(7).fill(0);
    this.unit = this.meter = this.tempo = null;
    this.compound = false;
    const lines = text.split('\n'), [letters, number] = this.readHeader(lines);
    if (!letters.length || letters.at(-1) !== 'K') this.error('header');
    this.unit ||= this.meter !== null && this.meter * 4 < WHOLE * 3 ? WHOLE / 16 : WHOLE / 8;
    if (this.fields.Q !== undefined) this.tempo = parseTempo(this.fields.Q, this.unit) ?? null;
    for (const voice of this.all.values()) this.begin(voice);
    this.voice = this.all.size === 1 ? [...this.all.values()][0] : null;
    this.readBody(lines, number, letters.length > 0);
    for (const voice of this.all.values()) {
      if (voice.timed) this.closeBar(voice, '', voice.to);
      if (voice.slur > 0) this.error('slur');
    }
    this.voices = [...this.all.values()].filter(voice => voice.bars.length);
  }

  error(kind) { this.errors.push(kind); this.headerErrors += kind === 'header'; }

  readHeader(lines) {
    const letters = [];
    let number = 0;
    while (number < lines.length && letters.at(-1) !== 'K') {
      const raw = lines[number], line = cleanLine(raw);
      if (line) {
        if (!/^[A-Za-z+]:/.test(line)) break;
        this.headerField(line[0], line.slice(2).trim(), letters);
      } else if (letters.length && !raw.trim()) break;
      this.bodyFrom += raw.length + 1;
      number++;
    }
    return [letters, number];
  }

  headerField(letter, value, letters) {
    if (!letters.length !== (letter === 'X')) this.error('header');
    if (letter === 'X' && !/^\d{1,9}$/.test(value)) this.error('header');
    letters.push(letter);
    if (letter === 'V') { this.setVoice(value, true); return; }
    this.fields[letter] ??= value;
    const parse = { M: parseMeter, L: parseUnit, Q: parseTempo, K: parseKey }[letter];
    const parsed = parse ? parse(value) : 0;
    if (parsed === undefined || letter === 'K' && parsed === null) { this.error('header'); return; }
    if (letter === 'M') [this.meter, this.compound] = parsed;
    if (letter === 'L') this.unit = parsed;
    if (letter === 'K') this.key = parsed;
  }

  readBody(lines, number, hasHeader) {
    let at = this.bodyFrom, ended = false;
    for (const raw of lines.slice(number)) {
      if (!raw.trim()) ended ||= hasHeader;
      else if (!ended) this.bodyLine(raw, at);
      else if (cleanLine(raw)) { this.error('after end'); break; }
      at += raw.length + 1;
    }
  }

  bodyLine(raw, at) {
    const line = cleanLine(raw, true);
    if (line[1] === ':') {
      if ('IKLMmNPQRrsTUVWw'.includes(line[0])) { this.field(line[0], line.slice(2), null, at, at); return; }
      if (line[0] === 'X') { this.error('second tune'); return; }
    }
    let begin = 0;
    for (const match of line.matchAll(DIVIDER)) {
      const stop = match.index, end = stop + match[0].length;
      if (match.groups.bar !== undefined) {
        const voice = this.voice || this.setVoice('1');
        if (begin < stop) this.music(voice, line.slice(begin, stop), at + begin);
        begin = end;
        this.barSign(voice, match[0], at + end);
      } else if (match.groups.value !== undefined) {
        const text = line.slice(begin, stop);
        if (text && (this.voice || text.trim())) this.music(this.voice || this.setVoice('1'), text, at + begin);
        begin = end;
        this.inlineField(match, at);
      }
    }
    if (begin < line.length) this.music(this.voice || this.setVoice('1'), line.slice(begin), at + begin);
  }

  barSign(voice, sign, closed) {
    if (sign === ':' || sign === '.:') { this.error('token'); voice.ok = false; }
    if (voice.timed) this.closeBar(voice, sign, closed);
    else voice.alterations = [...voice.key];
  }

  inlineField(match, at) {
    const { field: letter, value } = match.groups;
    if (letter === 'V') this.setVoice(value);
    else if ('IKLMmNPQRrsTUVWw'.includes(letter)) {
      this.field(letter, value, match[0], at + match.index, at + match.index + match[0].length);
    } else {
      this.error('field');
      if (this.voice) this.voice.ok = false;
    }
  }

  begin(voice) {
    Object.assign(voice, { key: [...this.key], unit: this.unit, meter: this.meter, compound: this.compound });
    this.newBar(voice);
  }

  newBar(voice) {
    Object.assign(voice, { alterations: [...voice.key], start: voice.now, from: -1, to: 0, heads: 0, rests: 0,
      timed: false, ok: true });
  }

  setVoice(value, declare = false) {
    const match = /^[ \t]*([^\s="]{1,40})(?:[ \t][\s\S]*)?$/.exec(value);
    if (!match) { this.error('voice'); return this.voice || this.setVoice('1'); }
    let voice = this.all.get(match[1]);
    if (!voice && this.all.size >= MAX_VOICES) { this.error('limit'); voice = [...this.all.values()][0]; }
    if (!voice) {
      voice = { name: match[1], now: 0, ties: [], slur: 0, notes: [], bars: [] };
      this.all.set(match[1], voice);
      this.begin(voice);
    }
    if (transposes(value)) this.error('voice');
    if (!declare) this.voice = voice;
    return voice;
  }

  field(letter, value, source, start, end) {
    if (letter === 'V') { this.setVoice(value); return; }
    if (!'MKLQ'.includes(letter)) return;
    const voice = this.voice || this.setVoice('1');
    const parsed = { M: parseMeter, L: parseUnit, K: parseKey, Q: text => parseTempo(text, voice.unit) }[letter](value);
    if (parsed === undefined || letter === 'K' && parsed === null) { this.error('field'); voice.ok = false; }
    else if (letter === 'M') [voice.meter, voice.compound] = parsed;
    else if (letter === 'L') voice.unit = parsed;
    else if (letter === 'K') { voice.key = parsed; voice.alterations = [...parsed]; }
    else if (parsed) this.tempos.push([voice.now, parsed]);
    this.grow(voice, source ? start : 0, source ? end : 0);
  }

  grow(voice, from, to) { // the bar's place in the text
    if (voice.from < 0) { voice.from = from; voice.to = to; } else voice.to = Math.max(voice.to, to);
  }

  music(voice, text, at) {
    const slur = voice.slur, { errors, rests, heads, timed } = readStretch(voice, text, at);
    if (voice.from < 0) voice.from = at;
    voice.to = at + text.length;
    let n = rests;
    if (timed) {
      if (voice.rests || rests && voice.timed) { this.error('token'); voice.ok = false; n = 0; }
      voice.rests += n;
      voice.timed = true;
      voice.heads += heads;
    }
    if (errors.length) voice.ok = false;
    const slurs = errors.filter(kind => kind === 'slur').length; // of one stretch they count as one
    for (const kind of errors.filter(kind => kind !== 'slur')) this.error(kind);
    if (slurs) { this.error('slur'); if (!slur) voice.ok = false; }
  }

  closeBar(voice, closing, closed) {
    const bar = { onset: voice.start, length: voice.now - voice.start, meter: voice.meter, start: Math.max(voice.from, 0),
      end: voice.to, ok: voice.ok, heads: voice.heads, closing, closed, voice: voice.name, key: voice.key };
    if (!voice.rests) { voice.bars.push(bar); this.order.push(bar); this.newBar(voice); return; }
    let n = voice.rests; // `Z4|` closes four bars
    this.restBars += n;
    if (voice.meter === null || this.restBars > MAX_REST_BARS) { this.error('limit'); this.restBars -= n; n = 1; bar.ok = false; }
    for (let i = 0; i < n; i++) {
      const one = { ...bar, onset: voice.now, length: voice.meter || 0, heads: 0, closing: i === n - 1 ? closing : '' };
      voice.bars.push(one);
      this.order.push(one);
      voice.now += voice.meter || 0;
    }
    this.newBar(voice);
  }
}

// ---------------------------------------------------------------- how good a text is: check_abc

// {level, header, tokens, content, meter, aligned, nNotes, nBars}; of the part after the first `given` characters.
function checkAbc(text, given = 0) {
  const reader = new Reader(text), { voices } = reader, pitches = new Set(), fits = [];
  let nNotes = 0, nBars = 0, rests = 0;
  for (const { bars, notes } of voices) {
    let first = bars.findIndex(bar => bar.end > given);
    if (first < 0) first = bars.length;
    nBars = Math.max(nBars, bars.length - first);
    for (const note of notes) if (note.at >= given) { nNotes++; pitches.add(note.pitch); }
    bars.forEach((bar, i) => {
      if (i < first) return;
      const atEnd = i === 0 || i === bars.length - 1;
      rests += !bar.heads;
      fits.push(bar.ok && (bar.length === bar.meter || atEnd && bar.meter !== null && bar.length < bar.meter));
    });
  }
  const flags = {
    header: !reader.headerErrors,
    tokens: reader.errors.length === reader.headerErrors,
    content: nNotes >= 16 && nBars >= 4 && pitches.size >= 4 && fits.length > 0 && rests / fits.length <= 0.75,
    meter: fits.every(Boolean) && voices.some(voice => voice.bars.some(bar => bar.length === bar.meter)),
    aligned: voices.length > 0 && voices.slice(1).every(({ bars }) => bars.length === voices[0].bars.length &&
      bars.slice(0, -1).every((bar, i) => bar.length === voices[0].bars[i].length)),
  };
  return { ...flags, level: [...Object.values(flags), false].indexOf(false), nNotes, nBars, voices };
}

// ---------------------------------------------------------------- right bars

// What the text's newest header, bar or end is worth: {verdict: "right", "wrong" or "open", nBars, level, nEach}.
function judge(text, given = 0, before = 0, ended = false) {
  const judged = (verdict, nBars = 0, level = false, nEach = 0) => ({ verdict, nBars, level, nEach });
  if (ended) return judged(checkAbc(text, given).level === 5 ? 'right' : 'wrong', before, true);
  const start = bodyStart(text);
  if (!start || !text.slice(start).includes('|')) return judged(...judgeHeader(text, start));
  text = text.slice(0, text.lastIndexOf('|') + 1);
  if (text.slice(text.lastIndexOf('\n') + 1).split('"').length % 2 === 0) return judged('open'); // `"A|B"`
  const reader = new Reader(text), { voices } = reader;
  const closed = voices.map(({ bars }) => bars.at(-1).closing ? bars : bars.slice(0, -1));
  const nBars = closed.reduce((sum, bars) => sum + bars.length, 0);
  if (reader.errors.length > voices.filter(voice => voice.slur > 0).length) return judged('wrong');
  if (nBars <= before) return judged('open', nBars);
  const [inTurns, level] = turns(reader.order.slice(0, nBars)), fits = [];
  for (const bars of closed) {
    bars.forEach((bar, i) => { if (bar.end > given) fits.push(fitOf(bar, i, i === bars.length - 1)); });
  }
  const isOpen = fits.includes('open');
  if (!inTurns || fits.includes('wrong') || !isOpen && !equalBars(closed)) return judged('wrong');
  return judged(isOpen ? 'open' : 'right', nBars, level, Math.min(...closed.map(bars => bars.length)));
}

function judgeHeader(text, start) {
  if (start) {
    const reader = new Reader(text.slice(0, start));
    return [reader.headerErrors || reader.meter === null ? 'wrong' : 'right', 0, true];
  }
  return [text.split('\n').slice(0, -1).every(line => line[1] === ':' || line[0] === '%') ? 'open' : 'wrong'];
}

function fitOf(bar, index, isNewest) { // the first one may be a pickup, a short newest one its voice's last
  if (!bar.ok || bar.meter === null || bar.length > bar.meter) return 'wrong';
  return bar.length === bar.meter || index === 0 ? 'right' : isNewest ? 'open' : 'wrong';
}

// [whether the voices come in turns of equally many bars, whether all of them are level at the end]
function turns(bars) {
  const counts = new Map(), turn = new Map(), most = () => Math.max(...counts.values());
  const kinds = () => new Set(counts.values()).size;
  let voice = null, leads = true;
  for (const bar of bars) {
    if (bar.voice !== voice) {
      const behind = voice !== null && counts.get(voice) < most();
      const late = !counts.has(bar.voice) && Math.max(0, ...turn.values()) > 1;
      if (behind || late) return [false, false];
      leads = kinds() < 2 && (counts.has(bar.voice) || !counts.size);
      voice = bar.voice;
      turn.set(voice, (turn.get(voice) || 0) + 1);
    }
    if (!leads && (counts.get(voice) || 0) === most()) {
      leads = kinds() === 1; // the last voice of a turn begins the next one
      turn.set(voice, (turn.get(voice) || 0) + 1);
      if (!leads) return [false, false];
    }
    counts.set(voice, (counts.get(voice) || 0) + 1);
  }
  return [true, kinds() === 1];
}

function equalBars(closed) {
  const longest = closed.reduce((most, bars) => bars.length > most.length ? bars : most);
  return closed.every(bars => bars.every((bar, i) => bar.length === longest[i].length));
}
