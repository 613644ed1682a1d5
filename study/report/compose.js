'use strict';
// The page: controls, roll, sound, proposals, attention and heads. What a person pastes or drops enters the page as
// numbers or through textContent only.

const $ = id => document.getElementById(id);
const facts = JSON.parse($('model').textContent);
const tokenizer = new Tokenizer(facts.texts);
const model = new FAMILIES[facts.config.family](facts.config, unpackWeights(facts.weights, $('weights').textContent.trim()));
$('weights').remove();
const writer = new Writer(model, tokenizer);
const nHeads = facts.config.family === 'transformer' ? facts.config.n_layer * facts.config.n_head : 0;
const VOICE_COLOURS = ['#3b78c9', '#c46a22', '#3f9a66', '#9a66bb', '#b8445f', '#7a9a2a', '#2f95a6', '#8a7a62'];
const headColour = head => `hsl(${Math.round(360 * head / nHeads)} 70% 50%)`;
const KEYS = ['', 'C', 'G', 'D', 'A', 'E', 'F', 'Bb', 'Eb', 'Am', 'Em', 'Bm', 'Dm', 'Gm', 'Cm', 'F#m'];
const METERS = ['', '4/4', '3/4', '2/4', '6/8', '9/8', '2/2', '3/2', '12/8'];
const NOTE_NAMES = ['C', 'C♯', 'D', 'E♭', 'E', 'F', 'F♯', 'G', 'A♭', 'A', 'B♭', 'B'];
const SLICE = 8; // milliseconds of work before the page gets its turn
const DEFAULTS = { key: '', meter: '', voices: '0', nBars: '16', bars: 'right', temperature: '1', minP: '0.05', seed: '1' };

const state = { text: '', score: null, given: 0, why: '', undo: [], bar: null, note: null, owner: [], job: null, own: null, allOn: null };

function say(words, trouble = false) {
  $('status').textContent = words;
  $('status').classList.toggle('trouble', trouble);
}

// ---------------------------------------------------------------- work in slices

const channel = new MessageChannel(), waiting = [];
channel.port1.onmessage = () => waiting.shift()();
const turn = () => new Promise(done => { waiting.push(done); channel.port2.postMessage(0); });

// Runs a generator in slices; onStep(value) after each slice and each value. One job at a time: a new one ends the old.
async function work(generator, onStep = () => {}) {
  const before = state.job, job = { stopped: false };
  state.job = job;
  if (before) before.stopped = true;
  if (before) await before.over;
  let over;
  job.over = new Promise(done => { over = done; });
  $('stop').disabled = false;
  try {
    for (;;) {
      const until = performance.now() + SLICE;
      let step;
      do step = generator.next(); while (!step.done && !step.value && performance.now() < until);
      if (step.done) return step.value;
      onStep(step.value);
      await turn();
      if (job.stopped) return 'stopped';
    }
  } finally {
    over();
    if (state.job === job) { state.job = null; $('stop').disabled = true; $('progress').value = 0; }
  }
}

// ---------------------------------------------------------------- settings

function fill(select, values, words) {
  for (const value of values) select.append(new Option(value || words, value));
}

function settings() {
  const now = {};
  for (const name of Object.keys(DEFAULTS)) now[name] = $(name).value;
  return now;
}

function sampler() {
  return { temperature: Number($('temperature').value), minP: Number($('minP').value), random: new Pcg32(seed()) };
}

const seed = () => Math.min(999999999, Math.max(0, Math.floor(Number($('seed').value)) || 0));

function showSettings() {
  $('temperatureOut').textContent = Number($('temperature').value).toFixed(2);
  $('minPOut').textContent = Number($('minP').value).toFixed(2);
}

function settingsFromLink() {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of asked) {
    if (!(name in DEFAULTS)) continue;
    const field = $(name);
    if (field.tagName === 'SELECT' && ![...field.options].some(option => option.value === value)) continue;
    field.value = value;
  }
  showSettings();
  return asked;
}

function linkOfSettings() {
  const now = Object.entries(settings()).filter(([name, value]) => value !== DEFAULTS[name]);
  return '#' + new URLSearchParams([...now, ['seed', String(seed())]].filter(([name], i, all) => all.findIndex(other => other[0] === name) === i));
}

// ---------------------------------------------------------------- the tune that is shown

// Takes over what the writer has; whole: the text will not go on.
function adopt(text) {
  state.text = text;
  state.score = scoreOf(text);
  state.owner = ownersOf();
  drawRoll();
  player.changed();
}

// For every token the index of the note that its characters are of, or -1.
function ownersOf() {
  const byChar = new Int32Array(state.text.length + 1).fill(-1), owners = [-1, -1];
  state.score.notes.forEach((note, i) => { for (let at = note.at; at < note.at + note.chars; at++) byChar[at] = i; });
  let at = 0;
  for (const token of writer.tokens.slice(START.length)) {
    owners.push(at < byChar.length ? byChar[at] : -1);
    at += tokenizer.texts[token].length;
  }
  return owners;
}

function tokensOf(i) { // places of a note's tokens
  const found = [];
  state.owner.forEach((note, token) => { if (note === i && token < writer.tokens.length) found.push(token); });
  return found;
}

const bitsOfNote = i => tokensOf(i).reduce((sum, token) => sum + writer.bits[token], 0);

function remember() {
  if (state.text) state.undo.push({ text: state.text, given: state.given });
  if (state.undo.length > 50) state.undo.shift();
  $('undo').disabled = !state.undo.length;
}

async function undo() {
  const last = state.undo.pop();
  $('undo').disabled = !state.undo.length;
  if (last) await showText(last.text, last.given, 'Undone.');
}

// Shows a text and has the model read it.
async function showText(text, given = 0, words = '') {
  closeTools();
  state.given = given;
  const n = text.length;
  say('The model reads …');
  const done = await work(writer.set(text), () => { $('progress').value = writer.tokens.length / n; });
  if (done === 'stopped') return false;
  adopt(text);
  showCost();
  say(words || summary());
  return true;
}

function summary() {
  const { bars, voices } = state.score, check = checkAbc(state.text);
  const wrong = bars.filter((_, i) => isWrong(i)).length;
  const words = [`${bars.length} bars`, `${voices.length} ${voices.length === 1 ? 'voice' : 'voices'}`,
    ...['M', 'K'].map(field => state.score.reader.fields[field]).filter(Boolean)];
  if (wrong) words.push(`${wrong} not as long as their meter (dashed)`);
  else if (check.level >= 4) words.push('every bar as long as its meter');
  return words.join(' · ');
}

const ENDINGS = { end: 'The model ended the tune.', bars: '', budget: 'That is as long as a tune can get here.',
  stuck: 'No right bar leads on from here: try another seed, or bars as drawn.', stopped: 'Stopped.' };

async function composeNow(prompt = '', play = true, more = {}) {
  remember();
  closeTools();
  const now = settings(), nBars = Number(now.nBars), started = performance.now();
  state.given = prompt.length;
  const generator = composeTune(writer, { prompt, key: now.key, meter: now.meter, voices: Number(now.voices), right: now.bars === 'right',
    nBars, temperature: Number(now.temperature), minP: Number(now.minP), seed: seed(), ...more });
  say('Composing …');
  if (!prompt) { state.text = ''; player.halt(); }
  player.writing = true;
  if (play) player.play(prompt ? null : 0);
  const wanted = nBars || 16;
  let why, shown = 0;
  try {
    why = await work(generator, step => {
      if (step && step.bar && performance.now() - shown > 60) {
        adopt(writer.text);
        shown = performance.now();
        const n = state.score.bars.length;
        $('progress').value = Math.min(1, n / wanted);
        say(`Composing … bar ${n}`);
      }
    });
  } catch (error) {
    why = 'stuck';
  }
  if (why === 'stopped' && state.job) return;
  const text = trimmed(writer.text);
  await work(writer.set(text));
  player.writing = false;
  adopt(text);
  showCost();
  const seconds = (performance.now() - started) / 1000, rate = writer.tokens.length / seconds;
  say([summary(), ENDINGS[why] || '', why === 'stopped' ? '' : `${seconds.toFixed(1)} s, ${Math.round(rate)} tokens a second`].filter(Boolean).join(' · '));
}

function trimmed(text) { // without an unfinished bar
  const end = Math.max(text.lastIndexOf('|') + 1, bodyStart(text));
  return end ? text.slice(0, end) + '\n' : text;
}

// ---------------------------------------------------------------- the roll

const SVG = 'http://www.w3.org/2000/svg';
const LEFT = 30, TOP = 16, GAP = 14; // pixels
let layout = null;

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  parent?.append(made);
  return made;
}

function isWrong(i) {
  const { bars } = state.score;
  return bars[i].parts.some(bar => bar && (!bar.ok || bar.meter !== null && bar.length !== bar.meter &&
    (bar.length > bar.meter || i > 0 && i < bars.length - 1)));
}

function drawRoll() {
  const { notes, bars } = state.score, width = $('roll').clientWidth || 800;
  const pitches = notes.map(note => note.pitch), low = Math.min(60, ...pitches) - 1, high = Math.max(72, ...pitches) + 1;
  const fit = (width - LEFT - 6) / (width < 600 ? 75 : 130), perRow = [8, 4, 2].find(n => n <= fit) || 1;
  const step = Math.max(3, Math.min(6, 170 / (high - low + 1))), tall = (high - low + 1) * step, barWidth = (width - LEFT - 6) / perRow;
  const rows = Math.max(1, Math.ceil(bars.length / perRow)), height = rows * (tall + TOP + GAP) + 4;
  layout = { perRow, step, tall, barWidth, high, rects: [], width };
  const svg = element('svg', { viewBox: `0 0 ${width} ${height}`, height, 'aria-hidden': 'true' });
  const top = i => Math.floor(i / perRow) * (tall + TOP + GAP) + TOP, left = i => LEFT + i % perRow * barWidth;
  Object.assign(layout, { top, left });
  for (let row = 0; row < rows; row++) {
    const y0 = row * (tall + TOP + GAP) + TOP;
    for (let c = Math.ceil(low / 12) * 12; c <= high; c += 12) {
      const y = y0 + (high - c + 1) * step;
      element('path', { class: 'grid octave', d: `M${LEFT} ${y}H${width - 6}` }, svg);
      element('text', { x: LEFT - 4, y: y, 'text-anchor': 'end' }, svg).textContent = 'C' + (c / 12 - 1);
    }
  }
  bars.forEach((bar, i) => {
    const x = left(i), y = top(i);
    element('rect', { class: 'barArea' + (isWrong(i) ? ' wrong' : '') + (state.bar === i ? ' chosen' : ''), x, y, width: barWidth, height: tall, 'data-bar': i }, svg);
    element('path', { class: 'grid', d: `M${x} ${y}v${tall}` + (i % perRow === perRow - 1 || i === bars.length - 1 ? `M${x + barWidth} ${y}v${tall}` : '') }, svg);
    element('text', { x: x + 3, y: y - 4 }, svg).textContent = i + 1;
  });
  const surprise = $('colour').value === 'surprise', bits = surprise ? noteBits() : null;
  notes.forEach((note, n) => {
    let from = note.onset;
    const end = note.onset + note.duration;
    for (let i = note.bar; i < bars.length && from < end - 1e-9; i++) {
      const bar = bars[i], to = Math.min(end, bar.onset + bar.length), scale = bar.length ? barWidth / bar.length : 0;
      const x = left(i) + (from - bar.onset) * scale, y = top(i) + (high - note.pitch) * step;
      const colour = surprise ? `color-mix(in oklab, var(--heat) ${Math.round(Math.min(100, bits[n] * 18))}%, var(--cool))` : VOICE_COLOURS[note.voice % 8];
      const rect = element('rect', { class: 'note' + (note.at < state.given ? ' given' : '') + (state.note === n ? ' chosen' : ''),
        x: x.toFixed(1), y: y.toFixed(1), width: Math.max(2, (to - from) * scale - 1).toFixed(1), height: Math.max(2, step - 0.5).toFixed(1),
        rx: 1.5, fill: colour, 'data-note': n }, svg);
      (layout.rects[n] ||= []).push(rect);
      from = to;
    }
  });
  layout.arcs = element('g', {}, svg);
  layout.cursor = element('path', { class: 'cursor' }, svg);
  $('roll').replaceChildren(svg);
  if (state.note !== null) drawArcs(state.note);
}

function noteBits() {
  const bits = new Float32Array(state.score.notes.length);
  state.owner.forEach((note, token) => { if (note >= 0 && token < writer.bits.length) bits[note] += writer.bits[token]; });
  return bits;
}

function middle(n) {
  const note = state.score.notes[n], bar = state.score.bars[note.bar];
  return [layout.left(note.bar) + (note.onset - bar.onset) * layout.barWidth / bar.length + 3,
    layout.top(note.bar) + (layout.high - note.pitch + 0.5) * layout.step];
}

// ---------------------------------------------------------------- what a note looked at

// {head: {note: weight}}: the softmax weight of the tokens that predicted a note, summed over its characters, on the
// notes before. What stands at a place holds the three tokens before it, too (token shift): a weight on a token that is
// of no note goes to the nearest note at most three tokens earlier.
function lookedAt(n) {
  const heads = Array.from({ length: nHeads }, () => new Map()), places = tokensOf(n);
  for (const place of places) {
    const looked = writer.looked[place];
    if (!looked) continue;
    const size = looked.rows.length / nHeads;
    for (let head = 0; head < nHeads; head++) for (let j = 0; j < size; j++) {
      const weight = (looked.rows[head * size + j] / 255) ** 2 / places.length;
      let token = looked.begin + j;
      for (let back = 0; back < 3 && state.owner[token] < 0; back++) token--;
      const to = state.owner[token] ?? -1;
      if (weight > 0.002 && to >= 0 && to !== n) heads[head].set(to, (heads[head].get(to) || 0) + weight);
    }
  }
  return heads;
}

function drawArcs(n) {
  layout.arcs.replaceChildren();
  if (!nHeads) return;
  const arcs = lookedAt(n).flatMap((notes, head) => writer.cache.off.has(head) ? [] : [...notes].map(([to, weight]) => ({ head, to, weight })));
  arcs.sort((a, b) => b.weight - a.weight);
  const [x, y] = middle(n), shown = arcs.filter(arc => arc.weight > 0.05).slice(0, 28);
  for (const { head, to, weight } of shown) {
    const [a, b] = middle(to), bend = Math.max(12, Math.min(70, Math.abs(x - a) / 3));
    element('path', { class: 'arc', d: `M${x} ${y}C${x} ${y - bend} ${a} ${b - bend} ${a} ${b}`, stroke: headColour(head), 'stroke-width': (0.8 + 9 * weight).toFixed(1) }, layout.arcs);
  }
  $('legend').replaceChildren(...[...new Set(shown.map(arc => arc.head))].map(head => {
    const item = document.createElement('span'), dot = document.createElement('span');
    dot.className = 'dot';
    dot.style.background = headColour(head);
    item.append(dot, `head ${headName(head)}`);
    return item;
  }));
}

const headName = head => `${Math.floor(head / facts.config.n_head) + 1}.${head % facts.config.n_head + 1}`;
const pitchName = pitch => NOTE_NAMES[pitch % 12] + (Math.floor(pitch / 12) - 1);

function chooseNote(n, keep = true) {
  if (!state.score?.notes[n]) return;
  for (const rect of layout.rects[state.note] || []) rect.classList.remove('chosen');
  state.note = n;
  for (const rect of layout.rects[n] || []) rect.classList.add('chosen');
  const note = state.score.notes[n], places = tokensOf(n);
  $('noteWords').textContent = `${pitchName(note.pitch)}, bar ${note.bar + 1}, voice ${note.voice + 1}: ${bitsOfNote(n).toFixed(1)} bits of surprise ` +
    `for “${state.text.slice(note.at, note.at + note.chars)}”.` + (nHeads ? '' : ` ${noArcs()}`);
  showLikeliest(places[0]);
  drawArcs(n);
}

const noArcs = () => `An ${facts.family} looks at no single note: its memory is one state of fixed size, in which everything read is mixed. So there are no arcs.`;

function showLikeliest(place) { // the six likeliest tokens there, and which was taken
  const likeliest = writer.likeliest[place];
  if (!likeliest) return;
  const all = likeliest.some(([token]) => token === writer.tokens[place]) ? likeliest : [...likeliest, [writer.tokens[place], 2 ** -writer.bits[place]]];
  $('likeliest').replaceChildren(...all.map(([token, p]) => {
    const row = document.createElement('div'), code = document.createElement('code'), bar = document.createElement('i'), share = document.createElement('span');
    row.className = 'likely' + (token === writer.tokens[place] ? ' taken' : '');
    code.textContent = token === END ? 'the end' : tokenizer.texts[token].replace(/\n/g, '↵');
    bar.style.width = `${100 * p}%`;
    share.textContent = `${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %`;
    row.append(code, bar, share);
    return row;
  }));
}

// ---------------------------------------------------------------- heads

function showHeads() {
  if (!nHeads) {
    $('cutWords').textContent = `${noArcs()} There are no heads to switch off, either.`;
    return;
  }
  $('cutWords').textContent = 'Switch a head off: the tune above is read again without it. ' + (facts.heads ?
    'Beside each head: what it costs on the validation tunes. A repeated bar is cheaper the second time: that saving is in-context copying. Red: what costs much.' : '');
  const table = document.createElement('table'), head = table.createTHead().insertRow(), body = table.createTBody();
  const columns = ['head', ...facts.heads ? ['loss', 'saving of a repeated bar'] : []];
  for (const words of columns) head.append(Object.assign(document.createElement('th'), { textContent: words }));
  const row = (words, numbers, base) => {
    const line = body.insertRow(), first = line.insertCell();
    first.append(words);
    numbers?.forEach((value, i) => {
      const cell = line.insertCell(), change = value - base[i];
      cell.append(value === null ? '–' : `${value.toFixed(3)} bits`);
      if (value !== null && base[i] !== null && Math.abs(change) > 0.0005 && (i ? change < -0.1 * base[1] : change > 0.05 * base[0])) {
        cell.replaceChildren(Object.assign(document.createElement('b'), { textContent: cell.textContent }));
      }
    });
  };
  if (facts.heads) row('all on', facts.heads.base, facts.heads.base);
  for (let n = 0; n < nHeads; n++) {
    const label = document.createElement('label'), box = Object.assign(document.createElement('input'), { type: 'checkbox', checked: true, value: n }), dot = document.createElement('span');
    dot.className = 'dot';
    dot.style.background = headColour(n);
    label.append(box, ' ', dot, headName(n));
    box.onchange = switchHeads;
    row(label, facts.heads?.off[n], facts.heads?.base);
  }
  $('heads').replaceChildren(table);
}

async function switchHeads() {
  const off = [...$('heads').querySelectorAll('input:not(:checked)')].map(box => Number(box.value)), { text, given } = state;
  if (state.job) { state.job.stopped = true; await state.job.over; }
  writer.switchHeads(off);
  if (text) await showText(text, given);
  if (state.note !== null) chooseNote(state.note);
}

function showCost() { // of this tune, as the model is cut now, beside all heads on
  const cost = barCosts(state.text, writer.bits, tokenizer, writer.tokens), parts = [];
  if (cost.all === null) return;
  if (!writer.cache.off.size) state.allOn = { text: state.text, cost };
  const whole = state.allOn?.text === state.text ? state.allOn.cost : null;
  const number = (name, words) => {
    if (cost[name] === null) return;
    const before = whole && writer.cache.off.size ? ` (all heads on: ${whole[name].toFixed(2)})` : '';
    parts.push(`${words} ${cost[name].toFixed(2)}${before}`);
  };
  number('all', 'this tune costs, in bits a character,');
  number('first', 'bars that come back, the first time');
  number('again', 'the second time');
  number('saving', 'saved');
  $('cost').textContent = parts.join('; ') + '.';
}

// ---------------------------------------------------------------- one bar again

function closeTools() {
  state.bar = state.note = null;
  $('tools').hidden = true;
  $('proposals').replaceChildren();
  state.own = null;
}

function chooseBar(i, voice = 0) {
  for (const area of $('roll').querySelectorAll('.barArea')) area.classList.toggle('chosen', Number(area.dataset.bar) === i);
  const changed = state.bar !== i || state.voice !== voice;
  state.bar = i;
  state.voice = voice;
  $('tools').hidden = false;
  $('toolsTitle').textContent = `Bar ${i + 1}` + (state.score.voices.length > 1 ? `, voice ${voice + 1}` : '');
  if (changed) $('proposals').replaceChildren();
}

async function rewriteBar() {
  const bar = state.score?.bars[state.bar]?.parts[state.voice];
  if (!bar || !bar.closing) { say('This bar cannot be written again: it has no bar line.', true); return; }
  const text = state.text, own = { bar: state.bar, voice: state.voice, given: state.given };
  const place = { start: bar.start, end: bar.closed, length: bar.length };
  say('Four proposals …');
  const found = await work(proposeBars(model, tokenizer, text, place, { ...sampler(), temperature: Math.max(0.8, Number($('temperature').value)) }),
    step => { if (step) $('progress').value = step.proposal / 4; });
  if (found === 'stopped') return;
  remember();
  const all = [{ ...found.original, words: 'as it is' }, ...found.proposals.map((p, i) => ({ ...p, words: `proposal ${i + 1}` }))];
  $('proposals').replaceChildren(...all.map((proposal, i) => {
    const button = document.createElement('button'), code = document.createElement('code'), small = document.createElement('small');
    button.type = 'button';
    button.className = 'proposal';
    button.setAttribute('aria-pressed', String(i === 0));
    code.textContent = proposal.bar;
    small.textContent = `${proposal.words}: ${proposal.before.toFixed(0)} bits given what comes before, then ${proposal.after.toFixed(0)} for what comes after`;
    button.append(code, small);
    button.onclick = async () => {
      for (const other of $('proposals').children) other.setAttribute('aria-pressed', String(other === button));
      const kept = [...$('proposals').children];
      if (!(await showText(proposal.text, own.given, `Bar ${own.bar + 1}: ${proposal.words}. Undo takes it back.`))) return;
      chooseBar(own.bar, own.voice);
      $('proposals').replaceChildren(...kept);
      button.focus();
      player.play(state.score.seconds(state.score.bars[Math.max(0, own.bar - 1)].onset));
    };
    return button;
  }));
  say(found.proposals.length ? `${found.proposals.length} proposals for bar ${own.bar + 1}, the likeliest first.` : 'The model finds no other right bar here.');
}

// ---------------------------------------------------------------- sound

const AHEAD = 0.4; // seconds of notes given to the sound card in advance: a busy page must not make it stumble

// Karplus-Strong (1983): noise in a loop as long as a period, smoothed a little at each pass, rings like a string.
function pluck(frequency, rate) {
  const period = rate / frequency - 0.5, n = Math.max(2, Math.floor(period)), part = Math.max(0, period - n);
  const data = new Float32Array(Math.round(rate * 1.8)), random = new Pcg32(Math.round(frequency));
  const kept = 0.5 ** (1 / (frequency * 0.3 + 60)); // of each period's loudness: low strings ring longer
  let smooth = 0;
  for (let i = 0; i < n + 2; i++) { smooth += 0.55 * (2 * random.uniform() - 1 - smooth); data[i] = smooth; }
  for (let i = n + 2; i < data.length; i++) { // between samples, or high notes would be out of tune
    const near = data[i - n] + data[i - n - 1], far = data[i - n - 1] + data[i - n - 2];
    data[i] = kept * 0.5 * ((1 - part) * near + part * far);
  }
  return data;
}

// Two operators (Chowning 1973): a sine bends another's phase, less and less, like a struck bar of metal.
function struck(frequency, rate) {
  const data = new Float32Array(Math.round(rate * 1.8)), w = 2 * Math.PI * frequency / rate;
  for (let i = 0; i < data.length; i++) {
    const t = i / rate, bend = 2.2 * Math.exp(-5 * t) * Math.sin(3 * w * i);
    data[i] = 0.7 * Math.exp(-3 * t) * Math.min(1, t * 400) * Math.sin(w * i + bend);
  }
  return data;
}

const player = {
  context: null, timer: null, notes: [], next: 0, begin: 0, at: 0, writing: false, buffers: new Map(),

  get playing() { return this.timer !== null; },
  get speed() { return Number($('speed').value); },
  get now() { return this.playing ? Math.max(0, (this.context.currentTime - this.begin) * this.speed) : this.at; },

  changed() { // the tune is another one, or longer
    const { notes, seconds } = state.score;
    this.notes = notes.map(note => [seconds(note.onset), seconds(note.onset + note.duration), note.pitch]);
    this.end = state.score.duration;
    if (this.playing) this.next = this.notes.findIndex(note => note[0] > this.sent);
    if (this.next < 0) this.next = this.notes.length;
    this.show();
  },

  buffer(pitch) {
    const kind = $('sound').value, name = kind + pitch;
    if (!this.buffers.has(name)) {
      const data = (kind === 'pluck' ? pluck : struck)(440 * 2 ** ((pitch - 69) / 12), this.context.sampleRate);
      const buffer = this.context.createBuffer(1, data.length, this.context.sampleRate);
      buffer.copyToChannel(data, 0);
      this.buffers.set(name, buffer);
    }
    return this.buffers.get(name);
  },

  async play(from = null) {
    this.halt();
    if (from !== null) this.at = from;
    if (!this.writing && this.at >= this.end - 0.05) this.at = 0;
    try {
      this.context ??= new AudioContext();
      if (this.context.state !== 'running') await this.context.resume();
    } catch { say('This browser plays no sound here.', true); return; }
    this.halt();
    this.out = this.context.createGain();
    this.out.gain.value = 0.5;
    this.out.connect(this.context.createDynamicsCompressor()).connect(this.context.destination);
    this.start(this.at);
    this.timer = setInterval(() => this.tick(), 50);
    $('play').textContent = '■ Stop';
    this.tick();
    const follow = () => { if (this.playing) { this.show(); requestAnimationFrame(follow); } };
    requestAnimationFrame(follow);
  },

  start(at) {
    this.begin = this.context.currentTime + 0.08 - at / this.speed;
    this.sent = at - 1e-6;
    this.next = this.notes.findIndex(note => note[0] > this.sent);
    if (this.next < 0) this.next = this.notes.length;
  },

  tick() {
    const ready = this.writing ? this.end || 0 : Infinity;
    if (this.now > ready - 0.02) { // the music waits for the model
      this.begin = this.context.currentTime + 0.1 - ready / this.speed;
      return;
    }
    const until = this.now + AHEAD * this.speed;
    for (; this.next < this.notes.length && this.notes[this.next][0] < until; this.next++) {
      const [from, to, pitch] = this.notes[this.next], at = Math.max(this.context.currentTime, this.begin + from / this.speed);
      const source = this.context.createBufferSource(), gain = this.context.createGain(), end = at + (to - from) / this.speed;
      source.buffer = this.buffer(pitch);
      gain.gain.setValueAtTime(1, end);
      gain.gain.setTargetAtTime(0, end, 0.05);
      source.connect(gain).connect(this.out);
      source.start(at);
      source.stop(end + 0.4);
      this.sent = from;
    }
    if (!this.writing && this.now > this.end + 0.3) {
      if ($('loop').checked) this.start(0);
      else { this.halt(); this.at = 0; this.show(); }
    }
  },

  halt() {
    if (!this.playing) return;
    this.at = this.now;
    clearInterval(this.timer);
    this.timer = null;
    this.out.disconnect();
    $('play').textContent = '▶ Play';
  },

  toggle() { if (this.playing) this.halt(); else this.play(); },

  show() {
    const clock = seconds => Math.floor(seconds / 60) + ':' + String(Math.floor(seconds % 60)).padStart(2, '0');
    const now = Math.min(this.now, this.end || 0);
    const words = `${clock(now)} / ${clock(this.end || 0)}`;
    if ($('clock').textContent !== words) $('clock').textContent = words;
    if (!state.score || !layout?.cursor) return;
    const { bars, seconds } = state.score;
    let i = 0;
    while (i + 1 < bars.length && seconds(bars[i + 1].onset) <= now) i++;
    if (!bars[i]) return;
    const from = seconds(bars[i].onset), to = seconds(bars[i].onset + bars[i].length), share = to > from ? Math.min(1, (now - from) / (to - from)) : 0;
    layout.cursor.setAttribute('d', `M${(layout.left(i) + share * layout.barWidth).toFixed(1)} ${layout.top(i)}v${layout.tall}`);
    if (!this.playing) return;
    this.notes.forEach(([start, end], n) => {
      const sounds = start <= now && now < end;
      if (sounds !== !!this.lit?.has(n)) for (const rect of layout.rects[n] || []) rect.classList.toggle('sounding', sounds);
    });
    this.lit = new Set(this.notes.flatMap(([start, end], n) => start <= now && now < end ? [n] : []));
  },
};

// ---------------------------------------------------------------- a tune of one's own

// A text in the project's own manner: L:1/16, voices in turns, no words, ornaments or repeats (each is read once).
// {text, nBars, left}: left: bars at the end that were not whole. Error says what cannot be read.
function ownManner(text) {
  if (text.length > 60000) throw new Error('the text is longer than 60,000 characters');
  text = text.replace(/\r\n?/g, '\n').replace(/^\ufeff/, '');
  const start = text.search(/^X:/m);
  if (start > 0) text = text.slice(start);
  if (start < 0) text = 'X:1\n' + text;
  text = text.split(/\n[ \t]*\n/)[0] + '\n';
  if (!/^K:/m.test(text)) throw new Error('it has no K: field, which ends the header');
  const reader = new Reader(text), voices = reader.voices;
  if (!voices.length) throw new Error('it has no music');
  const unit = WHOLE / 16, meter = reader.fields.M || '4/4';
  const bars = voices.map(voice => voice.bars.map(bar => bar.heads || bar.length ? barInUnits(text.slice(bar.start, bar.end), bar, reader, unit) : 'z16'));
  let n = Math.min(...bars.map(own => own.length)), left = Math.max(...bars.map(own => own.length)) - n;
  const whole = i => voices.every(({ bars: own }) => own[i].meter === null || own[i].length === own[i].meter || i === 0 && own[i].length < own[i].meter);
  while (n > 1 && !whole(n - 1)) { n--; left++; }
  const bare = /^[ \t]*([A-G][#b]?)[ \t]*(m(?:in(?:or)?)?\b)?/i.exec(reader.fields.K || '');
  let key = bare ? bare[1] + (bare[2] ? 'm' : '') : 'C';
  const sharps = reader.key.reduce((sum, a) => sum + a, 0);
  if (!bare || parseKey(key)?.join() !== reader.key.join()) key = ['Cb', 'Gb', 'Db', 'Ab', 'Eb', 'Bb', 'F', 'C', 'G', 'D', 'A', 'E', 'B', 'F#', 'C#'][sharps + 7] || 'C';
  const lines = [`X:1\nM:${meter === 'C' ? '4/4' : meter === 'C|' ? '2/2' : meter}\nL:1/16\nQ:1/4=${Math.round(reader.tempo || 120)}\nK:${key}`];
  for (let i = 0; i < n; i += TURN_BARS) {
    lines.push(bars.map((own, v) => (voices.length > 1 ? `[V:${v + 1}]` : '') + own.slice(i, Math.min(i + TURN_BARS, n)).map(bar => bar + '|').join('')).join(''));
  }
  return { text: lines.join('\n') + '\n', nBars: n, left };
}

function barInUnits(text, bar, reader, unit) {
  const voiceUnit = reader.unit, out = [];
  const size = (over, under) => over && under ? lengthText(over * voiceUnit, under * unit).replace(/^1$/, '') : '';
  let pending = [1, 1];
  for (const match of text.replace(/\[[A-Za-z]:[^\]]*\]/g, '').matchAll(TOKEN)) {
    const kind = Object.keys(match.groups).find(name => match.groups[name] !== undefined), token = match[0];
    const push = (head, [over, under], tie) => { out.push({ head, over: over * pending[0], under: under * pending[1], tie }); pending = [1, 1]; };
    if (kind === 'note') {
      const [head] = headsOf(token, 0), name = /^[\^_=]*[A-Ga-g][',]*/.exec(token)[0];
      push(name, [head.over, head.under], head.tied ? '-' : '');
    } else if (kind === 'rest') push('z', fractionOf(token.slice(1)), '');
    else if (kind === 'chord') {
      const end = token.lastIndexOf(']'), heads = headsOf(token.slice(0, end), 0), [over, under] = fractionOf(token.slice(end + 1).replace(/-$/, ''));
      if (!heads.length) continue;
      const names = [...token.slice(0, end).matchAll(/[\^_=]*[A-Ga-g][',]*/g)].map(found => found[0]);
      push(`[${names.join('')}]`, [over * heads[0].over, under * heads[0].under], token.endsWith('-') || heads.every(head => head.tied) ? '-' : '');
    } else if (kind === 'tuplet') out.push({ head: token, over: 0, under: 0, tie: '' });
    else if (kind === 'broken' && out.length) {
      const short = 2 ** token.length, last = out.at(-1), longer = [2 * short - 1, short], shorter = [1, short];
      const [now, next] = token[0] === '>' ? [longer, shorter] : [shorter, longer];
      last.over *= now[0];
      last.under *= now[1];
      pending = next;
    } else if (kind === 'full') return 'z' + lengthText(bar.length, unit);
  }
  return out.map(({ head, over, under, tie }) => head + size(over, under) + tie).join('');
}

// What stands in the text field, read; null and a sentence where it cannot be.
function ownTune() {
  try {
    const own = ownManner($('abc').value), unknown = [...new Set(own.text)].filter((_, i, all) => tokenizer.encode(all[i])[0] === UNKNOWN);
    if (unknown.length) throw new Error(`the model has never seen: ${unknown.slice(0, 8).join(' ')}`);
    return own;
  } catch (error) {
    say(`That tune cannot be read: ${error.message}.`, true);
    return null;
  }
}

async function readOwn() {
  const own = ownTune();
  if (!own) return;
  remember();
  player.halt();
  player.at = 0;
  await showText(own.text, 0, `Read: ${own.nBars} bars` + (own.left ? `, without the last ${own.left}, which are not whole` : '') + '.');
}

async function goOn() {
  const own = $('abc').value.trim() ? ownTune() : { text: state.text };
  if (!own || !own.text) return;
  const prompt = own.text.trimEnd() + (own.text.includes('[V:2]') ? '\n' : ''), nBars = Number($('nBars').value) || 8;
  if (judge(prompt.trimEnd()).verdict !== 'right') { say('No right bar can follow this tune: its bars do not have the length of its meter, or its voices are not level.', true); return; }
  await composeNow(prompt, false, { nBars, voices: 0 });
  if (state.score.bars.length) player.at = Math.max(0, state.score.seconds(state.score.bars[Math.max(0, state.score.bars.length - nBars - 1)].onset));
  player.show();
}

async function harmoniseOwn() {
  const own = $('abc').value.trim() ? ownTune() : { text: state.text };
  if (!own || !own.text) return;
  remember();
  closeTools();
  player.halt();
  player.at = 0;
  state.given = 0;
  const bars = new Reader(own.text).voices[0]?.bars.length || 1, parts = Number($('parts').value);
  let n = 0;
  say('Harmonising …');
  const why = await work(harmonise(writer, own.text, parts, sampler()), step => {
    if (!step) return;
    $('progress').value = ++n / (bars * (parts - 1));
    adopt(writer.text);
  });
  if (why === 'stopped' && state.job) return;
  const text = trimmed(writer.text);
  await work(writer.set(text));
  adopt(text);
  showCost();
  say(summary());
}

async function takeFile(file) {
  if (!file) return;
  try {
    if (file.size > FILE_LIMIT) throw new Error('the file is larger than 2 MB');
    const bytes = new Uint8Array(await file.arrayBuffer());
    $('abc').value = String.fromCharCode(...bytes.subarray(0, 4)) === 'MThd' ? abcOfMidi(bytes) : new TextDecoder().decode(bytes);
    await readOwn();
  } catch (error) {
    say(`${file.name.slice(0, 60)} cannot be read: ${error.message}.`, true);
  }
}

function save(content, ending, type) {
  if (!state.text) return;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = `tune-${seed()}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---------------------------------------------------------------- the person

fill($('key'), KEYS, 'any');
fill($('meter'), METERS, 'any');
if (tokenizer.longest > 1) for (const option of $('voices').querySelectorAll('option:not([value="0"])')) option.remove();
$('about').textContent = `A ${facts.family} of ${(facts.n_parameters / 1e6).toFixed(2)} million parameters, in this file. Nothing is sent anywhere.`;
{
  const { config, loss } = facts, shape = Object.entries(config).filter(([name]) => name.startsWith('n_') || name.startsWith('d_') || name === 'block_size');
  const lines = [`${facts.name}: ${facts.family}, ${facts.n_parameters.toLocaleString('en')} parameters (${shape.map(([name, n]) => `${name} ${n}`).join(', ')}).`];
  if (loss) lines.push(`Validation loss ${loss.exact.toFixed(4)} bits per character; with weights rounded to eight bits, as in this page, ${loss.rounded.toFixed(4)}.`);
  lines.push(`Learned from public-domain tunes unless it was trained on a collection of one's own. SHA-256 of the weights: ${facts.digest.slice(0, 16)}.`);
  $('card').replaceChildren(...lines.map(words => Object.assign(document.createElement('p'), { textContent: words })));
}
showHeads();

const dark = matchMedia('(prefers-color-scheme: dark)'), root = document.documentElement;
const isDark = () => (root.dataset.theme || (dark.matches ? 'dark' : 'light')) === 'dark';
const nameTheme = () => { $('theme').textContent = isDark() ? 'Light page' : 'Dark page'; };
$('theme').onclick = () => { root.dataset.theme = isDark() ? 'light' : 'dark'; nameTheme(); };
dark.onchange = nameTheme;
nameTheme();

$('settings').onsubmit = event => { event.preventDefault(); composeNow(); };
$('settings').oninput = showSettings;
$('dice').onclick = () => { $('seed').value = 1 + Math.floor(Math.random() * 99999); composeNow(); };
$('play').onclick = () => player.toggle();
$('speed').onchange = () => { if (player.playing) player.play(); };
$('colour').onchange = () => { if (state.score) drawRoll(); };
$('undo').onclick = undo;
$('stop').onclick = () => { if (state.job) state.job.stopped = true; };
$('rewrite').onclick = rewriteBar;
$('from').onclick = () => player.play(state.score.seconds(state.score.bars[state.bar].onset));
$('show').onclick = readOwn;
$('goOn').onclick = goOn;
$('harmonise').onclick = harmoniseOwn;
$('file').onchange = event => takeFile(event.target.files[0]);
$('saveAbc').onclick = () => save(state.text, 'abc', 'text/plain');
$('saveMid').onclick = () => state.score && save(midiFile(state.score), 'mid', 'audio/midi');
$('saveXml').onclick = () => state.score && save(musicXml(state.score), 'musicxml', 'application/xml');
$('link').onclick = async () => {
  const url = location.href.split('#')[0] + linkOfSettings();
  history.replaceState(null, '', url);
  try { await navigator.clipboard.writeText(url); say('The link is copied: the same seed and settings give the same tune.'); } catch { say('The link stands in the address bar.'); }
};

$('roll').onclick = event => {
  const { note, bar } = event.target.dataset;
  if (note !== undefined) {
    chooseNote(Number(note));
    chooseBar(state.score.notes[note].bar, state.score.notes[note].voice);
  } else if (bar !== undefined) {
    const i = Number(bar), box = event.target.getBoundingClientRect(), one = state.score.bars[i];
    chooseBar(i, state.voice < state.score.voices.length && state.bar === i ? (state.voice + 1) % state.score.voices.length : 0);
    player.at = state.score.seconds(one.onset + one.length * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
    if (player.playing) player.play(player.at); else player.show();
  }
};
$('roll').onpointerover = event => {
  const { note } = event.target.dataset;
  if (note !== undefined && event.pointerType === 'mouse' && !state.job) chooseNote(Number(note));
};

function moveNote(by, bars) {
  const { notes } = state.score, now = state.note ?? -1, voice = notes[now]?.voice ?? 0;
  let to = now;
  do to += by; while (notes[to] && (notes[to].voice !== voice || bars && now >= 0 && notes[to].bar === notes[now].bar));
  if (!notes[to]) return;
  chooseNote(to);
  chooseBar(notes[to].bar, voice);
}

function moveVoice(by) {
  const { notes, voices } = state.score, note = notes[state.note ?? 0], voice = note.voice + by;
  if (voice < 0 || voice >= voices.length) return;
  const near = notes.map((other, i) => [Math.abs(other.onset - note.onset), i]).filter(([, i]) => notes[i].voice === voice).sort((a, b) => a[0] - b[0])[0];
  if (near) { chooseNote(near[1]); chooseBar(notes[near[1]].bar, voice); }
}

document.addEventListener('keydown', event => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== 'checkbox', inRoll = $('roll').contains(event.target);
  if (event.key === 'Escape' && state.job) state.job.stopped = true;
  if (typing) return;
  if ((event.ctrlKey || event.metaKey) && event.key === 'z') { event.preventDefault(); undo(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey || !state.score) return;
  const press = { ' ': () => player.toggle(), ArrowRight: () => moveNote(1, event.shiftKey), ArrowLeft: () => moveNote(-1, event.shiftKey) };
  if (inRoll) Object.assign(press, { Enter: () => { if (state.bar !== null) rewriteBar(); }, ArrowUp: () => moveVoice(-1), ArrowDown: () => moveVoice(1) });
  if (event.key === ' ' && /^(BUTTON|SUMMARY)$/.test(event.target.tagName)) return; // it presses that button
  const proposal = $('proposals').children[Number(event.key) - 1];
  if (proposal) proposal.click();
  else if (press[event.key]) { event.preventDefault(); press[event.key](); }
});

addEventListener('dragover', event => { event.preventDefault(); document.body.classList.add('dropping'); });
addEventListener('dragleave', event => { if (!event.relatedTarget) document.body.classList.remove('dropping'); });
addEventListener('drop', event => { event.preventDefault(); document.body.classList.remove('dropping'); takeFile(event.dataTransfer.files[0]); });
addEventListener('hashchange', () => { settingsFromLink(); composeNow('', false); });
new ResizeObserver(() => { if (state.score && Math.abs($('roll').clientWidth - layout.width) > 4) drawRoll(); }).observe($('roll'));

if (settingsFromLink().get('start') !== '0') composeNow('', false);
