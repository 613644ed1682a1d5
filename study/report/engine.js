'use strict';
// The models of common.py, one token at a time, without any library. Names are those of common.py: a reader can
// hold both side by side. Numbers are 32-bit floats; the logits agree with torch's to about 1e-5.
//
//   const model = new Transformer(config, weights), cache = model.start();
//   const logits = finish(read(model, cache, tokens));     // after the last of the tokens
//
// Reading is a generator: it stops after every token, so that a page can stay responsive.

const BEGIN = 0, END = 1, UNKNOWN = 2; // first tokens of every vocabulary
const SHIFTS = 4; // token shift: a quarter of the channels each from 0, 1, 2 and 3 tokens before
const ROTARY_BASE = 500;
const EPS = 1.1920929e-7, MEMORY_EPS = 1e-5; // of root mean squares; the second is the SSM's
const MEMORY = [8, 512]; // tokens after which a new SSM's heads have forgotten all but 1 / e
const MARK_EVERY = 16; // tokens between two copies of a recurrent state, to which reading can go back

// ---------------------------------------------------------------- small parts

// y = W x for weights W (rows, columns) in one array. Four rows at a time: each x is loaded once for four products.
function multiply(W, x, y, rows = y.length) {
  const n = W.length / rows;
  let r = 0;
  for (; r + 3 < rows; r += 4) {
    const a = r * n, b = a + n, c = b + n, d = c + n;
    let p = 0, q = 0, s = 0, t = 0;
    for (let j = 0; j < n; j++) {
      const v = x[j];
      p += W[a + j] * v; q += W[b + j] * v; s += W[c + j] * v; t += W[d + j] * v;
    }
    y[r] = p; y[r + 1] = q; y[r + 2] = s; y[r + 3] = t;
  }
  for (; r < rows; r++) {
    let sum = 0;
    for (let j = 0; j < n; j++) sum += W[r * n + j] * x[j];
    y[r] = sum;
  }
  return y;
}

// Divides x[from .. from + n] by its root mean square, into `to`; gains: of the trained norms.
function rmsNorm(x, gains = null, to = x, from = 0, n = x.length, eps = EPS) {
  let squares = 0;
  for (let i = from; i < from + n; i++) squares += x[i] * x[i];
  const scale = 1 / Math.sqrt(squares / n + eps);
  for (let i = from; i < from + n; i++) to[i] = x[i] * scale * (gains ? gains[i] : 1);
  return to;
}

const sigmoid = x => 1 / (1 + Math.exp(-x));

// Gauss's error function (Abramowitz & Stegun 7.1.26; wrong by 1.5e-7 at most), for the exact GELU.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const tail = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(x) * (1 - tail * Math.exp(-x * x));
}

function add(x, y) { for (let i = 0; i < x.length; i++) x[i] += y[i]; }

// ---------------------------------------------------------------- families
// A model has start(): an empty cache; keep(cache, tokens, n): takes the cache back to what it has read already of the
// first n tokens, all but the last at most; feed(cache, token): reads one token, returns the logits after it.

class Model {
  constructor(config, weights) { this.config = config; this.weights = weights; this.slots = {}; }

  w(name) { return this.weights[name + '.weight']; }

  slot(name, n) { return this.slots[name] ||= new Float32Array(n); } // scratch, made once

  row(table, i, n) { return this.w(table).slice(i * n, (i + 1) * n); }

  feedForward(block, x, h) { // x += mlp_out(gelu(mlp_in(h)))
    const inner = multiply(this.w(block + 'mlp_in'), h, this.slot('inner', this.config.d_ff));
    for (let i = 0; i < inner.length; i++) inner[i] *= 0.5 * (1 + erf(inner[i] * Math.SQRT1_2));
    add(x, multiply(this.w(block + 'mlp_out'), inner, this.slot('d', x.length)));
  }

  logits(x) { // the head; what cannot be drawn has none
    return multiply(this.w('head'), x, new Float32Array(this.config.vocab_size));
  }
}

// h with a quarter of its channels from each of the tokens before; line: h of the tokens at positions 0 .. at.
function shifted(line, at, d, to) {
  const quarter = Math.ceil(d / SHIFTS);
  for (let i = 0; i < d; i++) {
    const from = at - Math.floor(i / quarter);
    to[i] = from < 0 ? 0 : line[from * d + i];
  }
  return to;
}

class Transformer extends Model {
  // A window's store: keys, values and what is shifted, of every position, so that going back inside a window costs
  // nothing. Two windows are kept, or a bar that is drawn again over an anchor would have half a window read each time.
  // off: heads that are switched off (layer * n_head + head). attention: the newest token's softmax rows,
  // (n_layer * n_head, positions), where watch is true.
  start() { return { tokens: [], begin: 0, windows: [], off: new Set(), watch: false, attention: null }; }

  newWindow() {
    const { n_layer, d_model: d, block_size: T } = this.config;
    const store = Array.from({ length: n_layer }, () => Object.fromEntries(
      ['k', 'v', 'attention', 'mlp'].map(name => [name, new Float32Array((T + 3) * d)])));
    return { begin: -1, tokens: [], store };
  }

  // Where the window of a text of n tokens begins: once it is full, the newest half is read again from position 0.
  windowStart(n) {
    const T = this.config.block_size, half = Math.floor(T / 2);
    return Math.max(0, Math.ceil((n - T) / half) * half);
  }

  keep(cache, tokens, n) {
    const begin = this.windowStart(n), { windows } = cache;
    let window = windows.find(one => one.begin === begin);
    if (!window) {
      window = windows.length < 2 ? this.newWindow() : windows.pop(); // the one not used of late
      Object.assign(window, { begin, tokens: [] });
    }
    cache.windows = [window, ...windows.filter(one => one !== window)];
    const same = Math.max(begin, commonLength(window.tokens, tokens, n - 1, begin));
    cache.tokens = window.tokens = tokens.slice(0, same);
    Object.assign(cache, { begin, store: window.store });
  }

  feed(cache, token) {
    const { n_layer, n_head, d_model: d, learned_positions, token_shift, qk_norm, rotary } = this.config;
    const at = cache.tokens.length - cache.begin, size = d / n_head, half = size / 2;
    const x = this.row('token_embedding', token, d), h = this.slot('h', d), qkv = this.slot('qkv', 3 * d);
    const y = this.slot('y', d), scores = this.slot('scores', this.config.block_size + 3);
    if (learned_positions !== false) add(x, this.row('position_embedding', at, d));
    const cos = this.slot('cos', half), sin = this.slot('sin', half);
    for (let i = 0; i < half; i++) {
      cos[i] = Math.cos(at * ROTARY_BASE ** (-i / half));
      sin[i] = Math.sin(at * ROTARY_BASE ** (-i / half));
    }
    if (cache.watch) cache.attention = new Float32Array(n_layer * n_head * (at + 1));
    for (let layer = 0; layer < n_layer; layer++) {
      const block = `blocks.${layer}.`, store = cache.store[layer];
      const norm = (name, line) => { // the normalised x, kept in line; shifted
        const here = line.subarray(at * d, (at + 1) * d);
        rmsNorm(x, this.w(block + name), here);
        if (token_shift) shifted(line, at, d, h); else h.set(here);
      };
      norm('norm_attention', store.attention);
      multiply(this.w(block + 'qkv'), h, qkv);
      for (let head = 0; head < 2 * n_head; head++) { // queries, then keys
        const from = head * size;
        if (qk_norm) rmsNorm(qkv, null, qkv, from, size);
        if (rotary) for (let i = 0; i < half; i++) {
          const a = qkv[from + i], b = qkv[from + half + i];
          qkv[from + i] = a * cos[i] - b * sin[i];
          qkv[from + half + i] = b * cos[i] + a * sin[i];
        }
      }
      store.k.set(qkv.subarray(d, 2 * d), at * d);
      store.v.set(qkv.subarray(2 * d), at * d);
      for (let head = 0; head < n_head; head++) {
        const from = head * size, index = layer * n_head + head;
        this.attend(qkv, store, from, size, at, scores, y);
        if (cache.watch) cache.attention.set(scores.subarray(0, at + 1), index * (at + 1));
        if (cache.off.has(index)) y.fill(0, from, from + size);
      }
      add(x, multiply(this.w(block + 'attention_out'), y, this.slot('d', d)));
      norm('norm_mlp', store.mlp);
      this.feedForward(block, x, h);
    }
    cache.tokens.push(token);
    return this.logits(rmsNorm(x, this.w('norm')));
  }

  // One head: softmax of the query's products with the keys 0 .. at, and the values' mean by it, into y. Four positions
  // at a time, as in multiply; those after `at` count nothing.
  attend(q, { k, v }, from, size, at, scores, y) {
    const d = this.config.d_model, scale = 1 / Math.sqrt(size);
    let most = -Infinity, total = 0;
    for (let j = 0; j <= at; j += 4) {
      const a = j * d, b = a + d, c = b + d, e = c + d;
      let p = 0, r = 0, s = 0, t = 0;
      for (let i = from; i < from + size; i++) {
        const x = q[i];
        p += x * k[a + i]; r += x * k[b + i]; s += x * k[c + i]; t += x * k[e + i];
      }
      scores[j] = p * scale; scores[j + 1] = r * scale; scores[j + 2] = s * scale; scores[j + 3] = t * scale;
    }
    for (let j = 0; j <= at; j++) most = Math.max(most, scores[j]);
    for (let j = 0; j <= at; j++) total += scores[j] = Math.exp(scores[j] - most);
    for (let j = 0; j <= at; j++) scores[j] /= total;
    scores.fill(0, at + 1, at + 4);
    y.fill(0, from, from + size);
    for (let j = 0; j <= at; j += 4) {
      const a = j * d, b = a + d, c = b + d, e = c + d;
      const p = scores[j], r = scores[j + 1], s = scores[j + 2], t = scores[j + 3];
      for (let i = from; i < from + size; i++) y[i] += p * v[a + i] + r * v[b + i] + s * v[c + i] + t * v[e + i];
    }
  }
}

// What LSTM and SSM share: a state of fixed size that is the memory. cache.marks: copies of it, by number of tokens.
class Recurrent extends Model {
  start() { return { tokens: [], state: this.zeros(), marks: new Map(), off: new Set() }; }

  keep(cache, tokens, n) {
    const same = commonLength(cache.tokens, tokens, n - 1);
    if (same === cache.tokens.length) return;
    let best = 0;
    for (const at of cache.marks.keys()) if (at > same) cache.marks.delete(at); else best = Math.max(best, at);
    cache.state = best ? cache.marks.get(best).map(part => part.slice()) : this.zeros();
    cache.tokens = tokens.slice(0, best);
  }

  feed(cache, token) {
    const logits = this.logits(this.run(cache.state, token));
    const n = cache.tokens.push(token);
    if (n % MARK_EVERY === 0) cache.marks.set(n, cache.state.map(part => part.slice()));
    return logits;
  }
}

class LSTM extends Recurrent {
  zeros() { // h and c of every layer
    return Array.from({ length: 2 * this.config.n_layer }, () => new Float32Array(this.config.d_hidden));
  }

  run(state, token) {
    const { n_layer, d_hidden: H, d_embedding: E } = this.config;
    const gates = this.slot('gates', 4 * H), more = this.slot('more', 4 * H);
    let x = this.row('embedding', token, E);
    for (let layer = 0; layer < n_layer; layer++) {
      const h = state[2 * layer], c = state[2 * layer + 1];
      const part = name => this.weights[`lstm.${name}_l${layer}`];
      multiply(part('weight_ih'), x, gates);
      multiply(part('weight_hh'), h, more);
      for (const other of [more, part('bias_ih'), part('bias_hh')]) add(gates, other);
      for (let i = 0; i < H; i++) { // input, forget, cell and output gate
        c[i] = sigmoid(gates[H + i]) * c[i] + sigmoid(gates[i]) * Math.tanh(gates[2 * H + i]);
        h[i] = sigmoid(gates[3 * H + i]) * Math.tanh(c[i]);
      }
      x = h;
    }
    return x;
  }
}

class SSM extends Recurrent {
  zeros() { // of every layer: the memory (n_head, size, size), and what is shifted, of four tokens, of both halves
    const { n_layer, n_head, d_model: d } = this.config;
    const sizes = [d * d / n_head, SHIFTS * d, SHIFTS * d];
    return Array.from({ length: 3 * n_layer }, (_, i) => new Float32Array(sizes[i % 3]));
  }

  run(state, token) {
    const { n_layer, n_head, d_model: d } = this.config, size = d / n_head;
    const x = this.row('token_embedding', token, d), h = this.slot('h', d), y = this.slot('y', d);
    for (let layer = 0; layer < n_layer; layer++) {
      const block = `blocks.${layer}.`, [memory, lineMemory, lineMlp] = state.slice(3 * layer, 3 * layer + 3);
      const norm = (name, line) => {
        line.copyWithin(0, d); // the oldest of four tokens goes
        rmsNorm(x, this.w(block + name), line.subarray(-d));
        shifted(line, SHIFTS - 1, d, h);
      };
      norm('norm_memory', lineMemory);
      const qkv = multiply(this.w(block + 'qkv'), h, this.slot('qkv', 3 * d));
      const gate = multiply(this.w(block + 'gate'), h, this.slot('gate', d));
      const forget = multiply(this.w(block + 'forget'), h, this.slot('forget', n_head));
      y.fill(0);
      for (let head = 0; head < n_head; head++) {
        const q = head * size, k = d + q, v = 2 * d + q, S = head * size * size;
        rmsNorm(qkv, null, qkv, q, size, MEMORY_EPS);
        rmsNorm(qkv, null, qkv, k, size, MEMORY_EPS);
        const share = n_head > 1 ? head / (n_head - 1) : 0; // MEMORY's logarithms, evenly spaced over the heads
        const tokens = MEMORY[0] * (MEMORY[1] / MEMORY[0]) ** share;
        const kept = sigmoid(forget[head] + Math.log(tokens - 1));
        for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) {
          const at = S + i * size + j;
          memory[at] = kept * memory[at] + qkv[k + i] * qkv[v + j];
          y[q + j] += memory[at] * qkv[q + i] / Math.sqrt(size);
        }
        rmsNorm(y, null, y, q, size, MEMORY_EPS);
      }
      for (let i = 0; i < d; i++) y[i] *= gate[i] * sigmoid(gate[i]);
      add(x, multiply(this.w(block + 'memory_out'), y, this.slot('d', d)));
      norm('norm_mlp', lineMlp);
      this.feedForward(block, x, h);
    }
    return rmsNorm(x, this.w('norm'));
  }
}

const FAMILIES = { transformer: Transformer, lstm: LSTM, ssm: SSM };

// ---------------------------------------------------------------- reading

function commonLength(a, b, most, from = 0) {
  let n = from;
  while (n < a.length && n < most && a[n] === b[n]) n++;
  return n;
}

// The logits after the first n of the tokens, as Transformer.step has them; what the cache has read of them is not
// read again. Yields after every token.
function* read(model, cache, tokens, n = tokens.length) {
  model.keep(cache, tokens, n);
  let logits;
  while (cache.tokens.length < n) {
    logits = model.feed(cache, tokens[cache.tokens.length]);
    yield;
  }
  return logits;
}

function finish(generator) { // at one go: for tests
  let step;
  do step = generator.next(); while (!step.done);
  return step.value;
}

// ---------------------------------------------------------------- drawing

// PCG32 (O'Neill 2014): the same numbers in every browser; uniform() in [0, 1) with 53 bits.
class Pcg32 {
  constructor(seed) {
    this.state = 0n;
    this.next();
    this.state += BigInt(seed);
    this.next();
  }

  next() {
    const old = this.state;
    this.state = BigInt.asUintN(64, old * 6364136223846793005n + 1442695040888963407n);
    const mixed = Number(BigInt.asUintN(32, ((old >> 18n) ^ old) >> 27n)), turn = Number(old >> 59n);
    return (mixed >>> turn | mixed << (-turn & 31)) >>> 0;
  }

  uniform() { return ((this.next() >>> 5) * 67108864 + (this.next() >>> 6)) / 9007199254740992; }
}

// Unnormalised probabilities after temperature and min-p (what has less than minP times the likeliest is left out).
function filteredWeights(logits, temperature, minP) {
  const most = Math.max(...logits);
  const weights = Float64Array.from(logits, x => Math.exp((x - most) / Math.max(temperature, 1e-8)));
  return weights.map(weight => weight >= minP ? weight : 0);
}

function draw(weights, uniform) {
  let left = uniform * weights.reduce((sum, weight) => sum + weight, 0);
  for (let i = 0; i < weights.length; i++) if ((left -= weights[i]) < 0) return i;
  return weights.lastIndexOf(Math.max(...weights));
}

// Bits of every token; BEGIN and UNKNOWN are left out (99), as they are never drawn.
function bitsOf(logits) {
  let most = -Infinity, total = 0;
  for (let i = 0; i < logits.length; i++) if (i !== BEGIN && i !== UNKNOWN) most = Math.max(most, logits[i]);
  for (let i = 0; i < logits.length; i++) if (i !== BEGIN && i !== UNKNOWN) total += Math.exp(logits[i] - most);
  const bits = logits.map(x => (most + Math.log(total) - x) / Math.LN2);
  bits[BEGIN] = bits[UNKNOWN] = 99;
  return bits;
}

// ---------------------------------------------------------------- weights and vocabulary of the page

// {name: Float32Array} of the page's base64: each matrix as int8 rows with a scale, vectors as fp32.
function unpackWeights(table, base64) {
  const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0)), weights = {};
  let at = 0;
  const floats = n => new Float32Array(bytes.slice(at, at += 4 * n).buffer);
  for (const [name, rows, columns] of table) {
    if (!columns) { weights[name] = floats(rows); continue; }
    const scales = floats(rows), values = new Int8Array(bytes.buffer, at, rows * columns);
    at += rows * columns;
    weights[name] = Float32Array.from(values, (value, i) => value * scales[Math.floor(i / columns)]);
  }
  return weights;
}

// Text <-> tokens: pieces by number (texts; the longest that fits is taken, which for characters is each of them).
class Tokenizer {
  constructor(texts) {
    this.texts = texts;
    this.numbers = new Map(texts.map((text, i) => [text, i]).slice(UNKNOWN + 1));
    this.longest = Math.max(1, ...texts.slice(UNKNOWN + 1).map(text => text.length));
  }

  decode(tokens) { return tokens.map(token => token < UNKNOWN ? '' : this.texts[token]).join(''); }

  encode(text) {
    const tokens = [];
    for (let at = 0; at < text.length;) {
      let n = Math.min(this.longest, text.length - at);
      while (n > 1 && !this.numbers.has(text.slice(at, at + n))) n--;
      tokens.push(this.numbers.get(text.slice(at, at + n)) ?? UNKNOWN);
      at += n;
    }
    return tokens;
  }
}
