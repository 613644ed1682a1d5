'use strict';
// Put into the page by page.py: inflates the pictures and plays the samples.

const all = (query, from = document) => [...from.querySelectorAll(query)];
const clock = seconds => Math.floor(seconds / 60) + ':' + String(Math.floor(seconds % 60)).padStart(2, '0');

// ---------------------------------------------------------------- pictures

// A picture is SVG as base64 of gzip. As the source of an image it runs no script and loads nothing.
async function inflate(image) {
  const bytes = Uint8Array.from(atob(image.dataset.svg), character => character.charCodeAt(0));
  delete image.dataset.svg;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  const svg = await new Response(stream).blob();
  image.src = URL.createObjectURL(new Blob([svg], { type: 'image/svg+xml' }));
  await image.decode().catch(() => {});
}

// Those inside a fold wait until it is opened.
const show = (box = document) => Promise.all(all('img[data-svg]', box)
  .filter(image => !image.closest('details:not([open])')).map(inflate));
for (const fold of all('details')) fold.addEventListener('toggle', () => show(fold));
const shown = show();

// ---------------------------------------------------------------- playing

const AHEAD = 0.4;  // seconds of notes given to the sound card in advance: a busy page must not make it stumble
const SILENT = 0.3; // seconds from the last note to the end of playing

// A note is a soft triangle wave with a short attack and a long decay.
function sound(context, to, [, length, pitch], at) {
  const wave = context.createOscillator(), gain = context.createGain(), end = at + Math.max(length, .06);
  wave.type = 'triangle';
  wave.frequency.value = 440 * 2 ** ((pitch - 69) / 12);
  gain.gain.setValueAtTime(0, at);
  gain.gain.linearRampToValueAtTime(.2, at + .012);
  gain.gain.exponentialRampToValueAtTime(.05, end);
  gain.gain.linearRampToValueAtTime(0, end + .04);
  wave.connect(gain).connect(to);
  wave.start(at);
  wave.stop(end + .05);
}

let context, playing; // one sample at a time

function stop() {
  if (!playing) return;
  clearInterval(playing.timer);
  playing.out.disconnect();
  playing.player.button.textContent = 'Play';
  playing.player.cursor.hidden = true;
  playing = null;
}

async function play(player, from) {
  stop();
  context ??= new AudioContext();
  await context.resume();
  const { notes, button, cursor, range } = player, end = +range.max;
  const out = context.createDynamicsCompressor(), begin = context.currentTime + .08 - from;
  out.connect(context.destination);
  let next = notes.findIndex(note => note[0] >= from - .01);
  if (next < 0) next = notes.length;
  button.textContent = 'Stop';
  cursor.hidden = false;
  const tick = () => {
    const now = context.currentTime - begin;
    for (; next < notes.length && notes[next][0] < now + AHEAD; next++) {
      sound(context, out, notes[next], begin + notes[next][0]);
    }
    player.show(Math.min(Math.max(now, from), end));
    if (now > end + SILENT) { stop(); player.show(0); }
  };
  playing = { timer: setInterval(tick, 60), out, player };
  tick();
}

const players = all('.player').map(box => {
  const range = box.querySelector('input'), output = box.querySelector('output');
  const player = {
    notes: JSON.parse(box.querySelector('.notes').textContent), // [onset, duration, pitch, voice], seconds
    range,
    button: box.querySelector('.play'),
    cursor: box.closest('article').querySelector('.cursor'),
    show(seconds) {
      range.value = seconds;
      output.textContent = clock(seconds) + ' / ' + clock(+range.max);
      // the roll's first note stands 3.4 % from its left edge, its last ends 0.6 % before the right one
      this.cursor.style.left = (3.4 + 96 * seconds / range.max) + '%';
    },
  };
  player.button.onclick = () => playing && playing.player === player ? stop() :
    play(player, +range.value >= +range.max - .2 ? 0 : +range.value);
  range.oninput = () => playing && playing.player === player ? play(player, +range.value) : player.show(+range.value);
  return player;
});
