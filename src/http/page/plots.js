// Drawing: plots over time and block maps, on canvases that know the page's inks.

const probe = document.createElement('i');
probe.hidden = true;
let inks = new Map();

/** The colour of a custom property of the style sheet, in the theme at hand. */
export function ink(name) {
  if (!inks.has(name)) {
    if (!probe.isConnected) document.body.append(probe);
    probe.style.color = `var(--${name})`;
    inks.set(name, getComputedStyle(probe).color);
  }
  return inks.get(name);
}

export const forgetInks = () => { inks = new Map(); };

/** A canvas's context in CSS pixels, cleared. */
function clean(canvas, height = canvas.clientHeight) {
  const [width, ratio] = [canvas.clientWidth, devicePixelRatio || 1];
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const pen = canvas.getContext('2d');
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

const LEFT = 0;
const RIGHT = 44;
const TOP = 6;
const BOTTOM = 18;

/** A step of 1, 2 or 5 times a power of ten, so that about `count` of them make up `span`. */
function niceStep(span, count) {
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  return power * ([1, 2, 5].find((factor) => raw <= factor * power) ?? 10);
}

/**
 * A plot over the last `seconds`. `read()` gives `{now, series}`, times in seconds; a series has `kind` (area, line, steps, dots,
 * band), `ink`, and `points` of `[time, value]` (a band's are `[time, low, high]`; an area's stand upon the one before).
 */
export class Plot {
  constructor(canvas, { seconds, unit, log = false, least = 1 }) {
    Object.assign(this, { canvas, seconds, unit, log, least, pointer: null });
    canvas.addEventListener('pointermove', (event) => { this.pointer = event.offsetX; this.draw(); });
    canvas.addEventListener('pointerleave', () => { this.pointer = null; this.draw(); });
  }

  draw(data = this.data) {
    if (!data || !this.canvas.clientWidth) return;
    this.data = data;
    const { pen, width, height } = clean(this.canvas);
    const right = width - RIGHT;
    const bottom = height - BOTTOM;
    const x = (time) => LEFT + ((time - data.now) / this.seconds + 1) * (right - LEFT);
    const range = this.range(data.series);
    const y = (value) => bottom - range.share(value) * (bottom - TOP);
    this.axes({ pen, right, bottom, y, range });
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, 0, right - LEFT, bottom + 1);
    pen.clip();
    let floor = null;
    for (const series of data.series) floor = drawSeries(pen, series, x, y, bottom, floor);
    if (this.pointer !== null && this.pointer < right) line(pen, this.pointer, TOP, this.pointer, bottom, ink('soft'));
    pen.restore();
  }

  /** The time under the pointer, in seconds before now; null if there is no pointer. */
  get pointed() {
    const right = this.canvas.clientWidth - RIGHT;
    return this.pointer === null || this.pointer > right ? null : this.seconds * (1 - (this.pointer - LEFT) / (right - LEFT));
  }

  range(series) {
    const areas = series.filter(({ kind }) => kind === 'area');
    const stacked = (areas[0]?.points ?? []).map((_, index) => areas.reduce((sum, { points }) => sum + points[index][1], 0));
    const values = series.flatMap(({ points }) => points.map((point) => point.at(-1))).concat(stacked).filter((value) => value > 0);
    const most = Math.max(this.least, ...values);
    if (!this.log) {
      const step = niceStep(most * 1.08, 3);
      const top = Math.ceil((most * 1.04) / step) * step;
      const ticks = Array.from({ length: Math.round(top / step) + 1 }, (_, index) => index * step);
      return { ticks, share: (value) => value / top };
    }
    const lows = series.flatMap(({ points }) => points.map((point) => point[1])).filter((value) => value > 0);
    const low = Math.floor(Math.log10(Math.min(this.least, ...lows)));
    const high = Math.max(low + 2, Math.ceil(Math.log10(most)));
    const ticks = Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index));
    return { ticks, share: (value) => Math.max(0, (Math.log10(Math.max(value, 1e-9)) - low) / (high - low)) };
  }

  axes({ pen, right, bottom, y, range }) {
    pen.font = '11.5px "Instrument Sans", sans-serif';
    pen.textBaseline = 'middle';
    pen.fillStyle = ink('faint');
    for (const tick of range.ticks) {
      line(pen, LEFT, y(tick), right, y(tick), ink('line'));
      if (bottom - y(tick) > 6 || tick === 0) pen.fillText(short(tick) + this.unit, right + 6, Math.min(y(tick), bottom - 3));
    }
    pen.textBaseline = 'alphabetic';
    pen.fillText(`${this.seconds / 60} min ago`, LEFT, bottom + 14);
    pen.textAlign = 'right';
    pen.fillText('now', right, bottom + 14);
    pen.textAlign = 'left';
  }
}

function line(pen, x1, y1, x2, y2, colour) {
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(Math.round(x1) + 0.5, Math.round(y1) + 0.5);
  pen.lineTo(Math.round(x2) + 0.5, Math.round(y2) + 0.5);
  pen.stroke();
}

/** Draws one series; answers what the next area stands upon. */
function drawSeries(pen, { kind, ink: name, points }, x, y, bottom, floor) {
  const colour = ink(name);
  pen.fillStyle = colour;
  pen.strokeStyle = colour;
  pen.lineWidth = 1.5;
  pen.lineJoin = 'round';
  if (kind === 'dots') {
    pen.globalAlpha = 0.55;
    for (const [time, value] of points) {
      pen.beginPath();
      pen.arc(x(time), y(value), 2, 0, 7);
      pen.fill();
    }
    pen.globalAlpha = 1;
    return floor;
  }
  if (kind === 'area') {
    const tops = points.map(([time, value], index) => [time, value + (floor?.[index]?.[1] ?? 0)]);
    pen.globalAlpha = 0.22;
    outline(pen, tops, x, y, 1);
    pen.lineTo(x(points.at(-1)?.[0] ?? 0), bottom);
    for (const [time, value] of (floor ?? []).toReversed()) pen.lineTo(x(time), y(value));
    if (!floor && points.length) pen.lineTo(x(points[0][0]), bottom);
    pen.fill();
    pen.globalAlpha = 1;
    outline(pen, tops, x, y, 1);
    pen.stroke();
    return tops;
  }
  if (kind === 'band') {
    pen.globalAlpha = 0.16;
    for (const run of runs(points)) {
      outline(pen, run, x, y, 2);
      for (const [time, low] of run.toReversed()) pen.lineTo(x(time), y(low));
      pen.fill();
    }
    pen.globalAlpha = 1;
    return floor;
  }
  for (const run of runs(points)) {
    outline(pen, run, x, y, 1, kind === 'steps');
    pen.stroke();
    // A single point is a short line, or it would not be seen.
    if (run.length === 1) pen.fillRect(x(run[0][0]) - 2, y(run[0][1]) - 1, 4, 2);
  }
  return floor;
}

/** Points that follow each other without a gap. */
function runs(points) {
  const all = [];
  for (const point of points) {
    const last = all.at(-1);
    if (last && point[0] - last.at(-1)[0] < 2.6) last.push(point);
    else all.push([point]);
  }
  return all;
}

function outline(pen, points, x, y, index, steps = false) {
  pen.beginPath();
  points.forEach((point, at) => {
    if (at && steps) pen.lineTo(x(point[0]), y(points[at - 1][index]));
    pen[at ? 'lineTo' : 'moveTo'](x(point[0]), y(point[index]));
  });
}

/** A number with few signs: 1.2k, 340, 0.5. */
export function short(value) {
  if (value >= 9950) return `${trim(value / 1000, value >= 99500 ? 0 : 1)}k`;
  if (value >= 1000) return `${trim(value / 1000, 2)}k`;
  return trim(value, value < 1 ? 2 : value < 10 ? 1 : 0);
}

const trim = (value, digits) => String(Number(value.toFixed(digits)));

/** Draws a group's blocks; `isMarked` says which entries of the batch stand out, if any do. */
export function drawMap(canvas, group, batch, marked) {
  const width = canvas.clientWidth;
  if (!width || !group.cells.length) return;
  const size = Math.max(5, Math.min(14, Math.floor(Math.sqrt((width * 128) / group.cells.length))));
  const columns = Math.max(1, Math.floor((width + 1) / size));
  const height = Math.ceil(group.cells.length / columns) * size;
  canvas.style.height = `${height}px`;
  const { pen } = clean(canvas, height);
  const side = size - 1;
  // What is not free and not in use is cached; which cell it is in is not told, so free cells are shown as cached last first.
  let cached = Math.ceil(group.cached / group.blocks_per_cell);
  const isCached = group.cells.map(() => false);
  for (let at = group.cells.length - 1; at >= 0 && cached > 0; at -= 1) if (!group.cells[at]) { isCached[at] = true; cached -= 1; }
  group.cells.forEach((inUse, at) => {
    const [left, top] = [(at % columns) * size, Math.floor(at / columns) * size];
    const share = inUse / group.blocks_per_cell;
    pen.globalAlpha = 1;
    pen.fillStyle = ink(isCached[at] ? 'cached' : 'sunk');
    pen.fillRect(left, top, side, side);
    if (!inUse) return;
    const holder = group.holders[at];
    const filled = Math.max(2, Math.round(side * Math.min(1, share)));
    pen.fillStyle = ink(holder < 0 ? 'soft' : batch[holder]?.phase === 'prefill' ? 'call' : 'reply');
    // Neighbours differ a little, so that one sees where one sequence ends.
    pen.globalAlpha = marked === null ? 0.62 + 0.38 * ((holder * 0.618) % 1) : holder === marked ? 1 : 0.25;
    pen.fillRect(left, top + side - filled, side, filled);
  });
  pen.globalAlpha = 1;
}
