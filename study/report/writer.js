'use strict';
// Writes tunes with a model: draws and forces text, redraws wrong bars as study/evaluate/sampling.py does, rewrites a
// bar, continues and harmonises. Every function here is a generator that yields after each token that was read.

const START = [END, BEGIN]; // how a tune begins in the training text: after the end of another
const MAX_TRIES = 64; // draws of one bar; then more than the bar is drawn again
const BARS_PER_GIVEN_UP = 8;
const N_LIKELIEST = 6;
const TURN_BARS = 4; // bars of each voice in a line, as in the training text

// A text, and what the model made of every token of it. bits[i], likeliest[i]: of token i given those before it;
// looked[i]: {begin, rows}, the softmax rows of the token *before* i, from which i was predicted, as bytes.
class Writer {
  constructor(model, tokenizer, maxChars = 6000) {
    Object.assign(this, { model, tokenizer, maxChars, cache: model.start() });
    this.cache.watch = true;
    this.clear();
  }

  clear() { this.tokens = [...START]; this.bits = [0, 0]; this.likeliest = [null, null]; this.looked = [null, null]; }

  get text() { return this.tokenizer.decode(this.tokens.slice(START.length)); }

  cut(n) { for (const list of [this.tokens, this.bits, this.likeliest, this.looked]) list.length = n; }

  switchHeads(off) { // another model from now on: all has to be read again
    this.cache = Object.assign(this.model.start(), { off: new Set(off), watch: true });
    this.cut(START.length);
  }

  *logits() { return yield* read(this.model, this.cache, this.tokens); }

  append(token, logits) {
    const { attention, begin } = this.cache;
    const rows = attention && new Uint8Array(attention.length), bits = bitsOf(logits);
    for (let i = 0; rows && i < rows.length; i++) rows[i] = 255 * Math.sqrt(attention[i]) + 0.5;
    this.looked.push(rows && { begin, rows });
    const order = [...bits.keys()].sort((a, b) => bits[a] - bits[b]).slice(0, N_LIKELIEST);
    this.likeliest.push(order.map(i => [i, 2 ** -bits[i]]));
    this.bits.push(bits[token]);
    this.tokens.push(token);
  }

  *force(text) { // given text: read, not drawn
    for (const token of this.tokenizer.encode(text)) this.append(token, yield* this.logits());
  }

  // Makes the text another one; what both begin with is not read again.
  *set(text) {
    const tokens = [...START, ...this.tokenizer.encode(text)];
    this.cut(commonLength(tokens, this.tokens, tokens.length));
    while (this.tokens.length < tokens.length) this.append(tokens[this.tokens.length], yield* this.logits());
  }

  // Draws a token; allows(text of a token, token): what may come.
  *draw({ temperature, minP, random }, allows) {
    const logits = yield* this.logits();
    const allowed = logits.map((x, i) => i === BEGIN || i === UNKNOWN || !allows(this.tokenizer.texts[i], i) ? -Infinity : x);
    if (!allowed.some(x => x > -Infinity)) throw new Error('no token may follow');
    const token = draw(filteredWeights(allowed, temperature, minP), random.uniform());
    this.append(token, logits);
    return token;
  }

  // Mean bits of the text between two tokens.
  bitsBetween(from, to) { return this.bits.slice(from, to).reduce((sum, bits) => sum + bits, 0); }
}

// ---------------------------------------------------------------- a whole tune, or what follows a given text

// settings: {prompt, meter, key, voices (0: the model's choice), temperature, minP, seed, right, nBars (0: to the end)}.
// Yields {bar: true} when a bar stands. Returns why it stopped: "end", "bars", "budget" or "stuck".
function* composeTune(writer, settings) {
  const { prompt = '', right, nBars } = settings, sampler = { ...settings, random: new Pcg32(settings.seed) };
  yield* writer.set(prompt);
  const given = judge(prompt), last = given.nEach + nBars, wanted = nBars && last, isChar = writer.tokenizer.longest === 1;
  const placeHere = (nBars, level) => ({ n: writer.tokens.length, nBars, level, ...nextVoices(writer.text, wanted, right) });
  let text = prompt, place = placeHere(given.nBars, true);
  let levels = [place], tries = 0, upInAll = 0, upSince = 0, mostBars = 0;
  for (;;) {
    const forced = isChar ? forcedText(text, settings) : '';
    if (forced) yield* writer.force(forced);
    else {
      const token = yield* writer.draw(sampler, (piece, i) => i === END ? !nBars :
        !isChar || mayFollow(text, piece, settings) && keepsTurns(text, piece, place));
      if (token === END) {
        if (!right || judge(text, prompt.length, place.nBars, true).verdict === 'right') { writer.cut(writer.tokens.length - 1); return 'end'; }
        tries++;
        writer.cut(place.n);
        text = writer.text;
        if (tries < MAX_TRIES) continue;
      }
    }
    text = writer.text;
    const inHeader = !bodyStart(text), newest = writer.tokenizer.decode(writer.tokens.slice(-1));
    const long = writer.tokens.length - place.n > MAX_CHARS, isLost = turnsTooEarly(text, place);
    if (tries < MAX_TRIES && !isLost && !newest.includes(inHeader || text.endsWith('\n') && bodyStart(text) === text.length ? '\n' : '|') && !long) {
      yield;
      continue;
    }
    const judged = isLost ? { verdict: 'wrong' } : right ? judge(text, prompt.length, place.nBars) : counted(text);
    if (tries < MAX_TRIES && judged.verdict === 'open' && !long) { yield; continue; }
    if (tries < MAX_TRIES && judged.verdict === 'right') {
      tries = 0;
      place = placeHere(judged.nBars, judged.level);
      if (judged.level) levels.push(place);
      yield { bar: true };
      if (nBars && judged.level && judged.nEach >= last && hasVoices(text, settings)) return 'bars';
    } else if (right) {
      tries++;
      writer.cut(place.n);
      if (tries >= MAX_TRIES) { // this bar is given up: back to an earlier place where all voices were level
        if (place.nBars > mostBars) { upSince = 0; mostBars = place.nBars; }
        const earlier = levels.filter(level => level.n < place.n);
        if (!earlier.length || upInAll > Math.floor(mostBars / BARS_PER_GIVEN_UP)) { writer.cut(levels.at(-1).n); return 'stuck'; }
        earlier.splice(earlier.length + 1 - Math.min(2 ** (upSince + 1), earlier.length));
        upInAll++; upSince++; tries = 0;
        levels = earlier;
        place = levels.at(-1);
        writer.cut(place.n);
      }
      text = writer.text;
    }
    if (text.length - prompt.length > writer.maxChars) { writer.cut(levels.at(-1).n); return 'budget'; }
    yield;
  }
}

// Where the next bar begins, whether the newest voice may have it (goOn), and which others may. last: the bars that each
// voice is to have, 0 for any number. A bar of the wrong voice is then found out at its first characters.
function nextVoices(text, last, right) {
  const { order, voices } = new Reader(text), now = order.at(-1)?.voice, end = text.trimEnd().length;
  if (!text.includes('[V:') || !order.length) return { end, goOn: true, others: null };
  const names = voices.map(voice => voice.name), counts = names.map(name => order.filter(bar => bar.voice === name).length);
  const may = voice => !right || turns([...order, { voice }])[0];
  const others = [...names, String(names.length + 1)].filter(name => name !== now && may(name));
  const isFull = last && counts[names.indexOf(now)] >= Math.max(last, ...counts);
  return { end, goOn: !others.length || may(now) && !isFull, others };
}

// Whether a character may follow a text where the next bar is of one of these voices.
function keepsTurns(text, piece, { end, goOn, others }) {
  if (!others) return true;
  const begun = text.slice(end).trimStart(), name = /^\[V:(\d*)$/.exec(begun);
  if (name) return piece === ']' ? others.includes(name[1]) : others.some(other => other.startsWith(name[1] + piece));
  if (!begun) return goOn && piece !== '\n' || piece === '[' || piece === '\n' && others.length > 0;
  return begun !== '[' || piece === 'V' || goOn;
}

// Whether a text leaves its voice, behind the others, for the next one: no bar that follows can be right. It is no rule of
// keepsTurns, or all the probability of `[V` would go to chords.
const turnsTooEarly = (text, { end, others }) => others?.length === 0 && text.slice(end).trimStart() === '[V';

// Whether all voices have come: where there are tags, the first turn ends with the last voice.
function hasVoices(text, { voices }) {
  const tags = new Set([...text.matchAll(/\[V:([^\]]*)\]/g)].map(match => match[1])).size;
  return voices > 1 ? tags >= voices : tags !== 1;
}

// As judge answers, of bars as they were drawn: each counts.
function counted(text) {
  const { voices } = new Reader(text.slice(0, Math.max(text.lastIndexOf('|') + 1, bodyStart(text))));
  const counts = voices.map(voice => voice.bars.length);
  return { verdict: 'right', nBars: counts.reduce((sum, n) => sum + n, 0), level: new Set(counts).size < 2,
    nEach: counts.length ? Math.min(...counts) : 0 };
}

// What a header's fields, and the voices, are asked to be.
function forcedText(text, { meter, key, voices }) {
  const start = bodyStart(text);
  if (!text) return 'X:1\n';
  if (!start) {
    if (meter && text.endsWith('\nM:')) return meter + '\n';
    if (key && text.endsWith('\nK:')) return key + '\n';
    return text === 'X:1\n' ? 'M:' : '';
  }
  return voices > 1 && text.length === start ? '[V:1]' : '';
}

// Whether a character may follow a text where the number of voices is asked for.
function mayFollow(text, piece, { voices }) {
  if (!voices || !bodyStart(text)) return true;
  if (voices === 1) return !(piece === 'V' && text.endsWith('['));
  const tags = [...text.slice(-4000).matchAll(/\[V:(\d+)\]/g)].map(match => Number(match[1])), now = tags.at(-1) || 1;
  if (text.endsWith('[V:')) return piece === String(now % voices + 1);
  if (/\[V:\d+$/.test(text)) return piece === ']';
  if (text.endsWith('|\n')) return piece === '[' ;
  if (text.endsWith('|\n[') || text.endsWith('|[') && now < voices && text.endsWith('\n[')) return piece === 'V';
  return !(piece === '\n' && now < voices);
}

// ---------------------------------------------------------------- one bar of a voice

// Draws a bar of the voice that the text is in, `length` ticks long, ended by |; false if MAX_TRIES were wrong.
function* drawBar(writer, sampler, length, refused = new Set(), tries = MAX_TRIES) {
  const from = writer.tokens.length;
  for (let n = 0; n < tries; n++) {
    let bar = '';
    while (!bar.includes('|') && bar.length <= MAX_CHARS) {
      const token = yield* writer.draw(sampler, (piece, i) => i !== END && !piece.includes('\n') && !/\[[VMKLQ]/.test(bar.slice(-1) + piece));
      bar += writer.tokenizer.texts[token];
      yield;
    }
    const text = writer.text, reader = new Reader(text), last = reader.order.at(-1);
    const fits = last && bar.endsWith('|') && last.ok && last.length === length && last.end > text.length - bar.length;
    if (fits && !refused.has(bar)) return bar;
    writer.cut(from);
  }
  return false;
}

// Proposals for the bar text[start, end) of `length` ticks: [{bar, text, before, after}], best first. before: its bits
// given what comes before; after: bits of what comes next, given it, up to `ahead` characters.
function* proposeBars(model, tokenizer, text, { start, end, length }, sampler, n = 4, ahead = 120) {
  const writer = new Writer(model, tokenizer), rest = text.slice(end), next = rest.slice(0, ahead);
  const own = text.slice(start, end), refused = new Set(), proposals = [];
  const heard = function* (bar, from) {
    const to = writer.tokens.length;
    yield* writer.force(next);
    const before = writer.bitsBetween(from, to), after = writer.bitsBetween(to, writer.tokens.length);
    writer.cut(from);
    return { bar, text: text.slice(0, start) + bar + rest, before, after };
  };
  yield* writer.set(text.slice(0, start));
  const from = writer.tokens.length;
  yield* writer.force(own);
  const original = yield* heard(own, from);
  refused.add(own);
  while (proposals.length < n) {
    const bar = yield* drawBar(writer, sampler, length, refused);
    if (!bar) break;
    refused.add(bar);
    proposals.push(yield* heard(bar, from));
    yield { proposal: proposals.length };
  }
  proposals.sort((a, b) => a.before + a.after - b.before - b.after);
  return { original, proposals };
}

// The first voice of a text given, n - 1 others drawn below it, TURN_BARS bars a turn. Yields {bar: true}.
function* harmonise(writer, text, nVoices, sampler) {
  const reader = new Reader(text), melody = reader.voices[0], header = text.slice(0, reader.bodyFrom);
  yield* writer.set(header);
  for (let first = 0; first < melody.bars.length; first += TURN_BARS) {
    const bars = melody.bars.slice(first, first + TURN_BARS);
    const given = bars.map(bar => text.slice(bar.start, bar.end).replace(/\n/g, '') + '|').join('');
    yield* writer.force((first ? '\n' : '') + '[V:1]' + given);
    for (let voice = 2; voice <= nVoices; voice++) {
      yield* writer.force(`[V:${voice}]`);
      for (const bar of bars) {
        if (!(yield* drawBar(writer, sampler, bar.length))) {
          const rest = `${bar.length / reader.unit === 1 ? 'z' : 'z' + lengthText(bar.length, reader.unit)}|`;
          yield* writer.force(rest); // no bar fits: the voice rests
        }
        yield { bar: true };
      }
    }
  }
  return 'bars';
}

function lengthText(ticks, unit) { // `3`, `3/2`, `/2`
  let over = ticks, under = unit;
  for (let a = ticks, b = unit; ;) { const c = a % b; if (!c) { over /= b; under /= b; break; } a = b; b = c; }
  return (over === 1 && under > 1 ? '' : over) + (under > 1 ? '/' + under : '');
}

// ---------------------------------------------------------------- what a text sounds like

// All voices meet at every bar line, as on paper. {notes: [{onset, duration (quarters), pitch, voice, bar, at, chars}],
// bars: [{onset, length, parts: bar of each voice}], end, voices, tempo, seconds(quarters)}
function scoreOf(text) {
  const reader = new Reader(text), { voices } = reader, bars = [];
  const n = Math.max(0, ...voices.map(voice => voice.bars.length));
  let onset = 0;
  for (let i = 0; i < n; i++) {
    const parts = voices.map(voice => voice.bars[i] || null);
    const length = Math.max(...parts.filter(Boolean).map(bar => bar.length)) / TICKS;
    bars.push({ onset, length, parts });
    onset += length;
  }
  const notes = [];
  voices.forEach((voice, v) => {
    let i = 0;
    for (const note of voice.notes) {
      while (i + 1 < voice.bars.length && voice.bars[i + 1].onset <= note.onset) i++;
      const bar = voice.bars[i], shift = bars[i].onset - bar.onset / TICKS;
      notes.push({ onset: note.onset / TICKS + shift, duration: note.duration / TICKS, pitch: note.pitch, voice: v, bar: i,
        at: note.at, chars: note.chars });
    }
  });
  notes.sort((a, b) => a.onset - b.onset || a.voice - b.voice || a.pitch - b.pitch);
  const first = reader.tempo || 120, changes = reader.tempos.map(([at, tempo]) => [at / TICKS, tempo]).sort((a, b) => a[0] - b[0]);
  const seconds = at => {
    let total = 0, last = 0, tempo = first;
    for (const [place, next] of changes) {
      if (place >= at) break;
      total += (place - last) * 60 / tempo;
      last = place;
      tempo = next;
    }
    return total + (at - last) * 60 / tempo;
  };
  return { reader, notes, bars, voices, end: onset, tempo: first, seconds, duration: seconds(onset) };
}

// Bits a character of bars of a text, by whether the bar stood before in its voice: {first, again, saving} of those that
// come back, {all} of the body; null where there are none. bits: of every token, START included.
function barCosts(text, bits, tokenizer, tokens) {
  const byChar = [];
  tokens.slice(START.length).forEach((token, i) => {
    const n = tokenizer.texts[token].length || 1;
    for (let k = 0; k < n; k++) byChar.push(bits[i + START.length] / n);
  });
  const sum = [0];
  for (const b of byChar) sum.push(sum.at(-1) + b);
  const places = new Map(), total = { first: [0, 0], again: [0, 0] };
  for (const bar of new Reader(text).order) {
    if (!bar.heads) continue;
    const name = bar.voice + '|' + text.slice(bar.start, bar.end);
    places.set(name, [...places.get(name) || [], bar]);
  }
  for (const same of places.values()) if (same.length > 1) same.forEach((bar, i) => {
    const kind = total[i ? 'again' : 'first'];
    kind[0] += sum[bar.end] - sum[bar.start];
    kind[1] += bar.end - bar.start;
  });
  const mean = ([b, n]) => n ? b / n : null, first = mean(total.first), again = mean(total.again);
  return { all: byChar.length ? sum.at(-1) / byChar.length : null, first, again, saving: again === null ? null : first - again };
}
