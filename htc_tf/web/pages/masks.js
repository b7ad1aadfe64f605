// Masks in COCO's compressed run lengths: hit test of a pixel, and outlines as paths.

// Returns the end of each run, in pixels counted column by column. Runs alternate, outside the mask first.
function readRuns(text) {
  const lengths = [];
  for (let at = 0; at < text.length; ) {
    let value = 0, unit = 1, character;
    do {  // characters of five bits, low bits first; a sixth bit says that more follow
      character = text.charCodeAt(at++) - 48;
      value += (character & 31) * unit;
      unit *= 32;
    } while (character & 32);
    if (character & 16) value -= unit;
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    lengths.push(value);
  }
  let end = 0;
  return Float64Array.from(lengths, (length) => (end += length));
}

export class Mask {
  // segmentation: {size: [height, width], counts: string}.
  constructor(segmentation) {
    [this.height, this.width] = segmentation.size;
    this.ends = readRuns(segmentation.counts);
    this.paths = new Map();
  }

  // Returns true if the pixel at column x, row y is inside.
  contains(x, y) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return false;
    const pixel = x * this.height + y;
    let low = 0, high = this.ends.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ends[middle] <= pixel) low = middle + 1;
      else high = middle;
    }
    return low % 2 === 1 && low < this.ends.length;  // odd runs are inside
  }

  // Returns the mask's outline, smoothed within a pixel, as a Path2D in pixels of the image. Its points are at least
  // `step` pixels apart.
  outline(step) {
    const key = 2 ** Math.round(Math.log2(step));  // a few paths for all zoom levels
    if (!this.paths.has(key)) this.paths.set(key, trace(this.columns(), key));
    return this.paths.get(key);
  }

  // Returns a Map from column to the rows where the mask starts and ends, alternating, without empty columns.
  columns() {
    const columns = new Map();
    for (let run = 1; run < this.ends.length; run += 2) {
      for (let start = this.ends[run - 1]; start < this.ends[run]; ) {
        const column = Math.floor(start / this.height), top = column * this.height;
        const end = Math.min(this.ends[run], top + this.height);
        if (!columns.has(column)) columns.set(column, []);
        columns.get(column).push(start - top, end - top);
        start = end;
      }
    }
    return columns;
  }
}

// Follows the edges between inside and outside pixels, with the inside on the right, and joins the midpoints of the
// edges, which turns stairs into slopes. Then smooths the path and drops points closer than `step`.
function trace(columns, step) {
  const path = new Path2D();
  const edges = listEdges(columns);
  for (const start of edges.keys()) {
    for (let at = start; edges.has(at); at = start) {
      const midpoints = [];
      do {
        const next = takeEdge(edges, at);
        const [x, y] = split(at), [x2, y2] = split(next);
        midpoints.push([(x + x2) / 2, (y + y2) / 2]);
        at = next;
      } while (at !== start);
      addLoop(path, thin(smooth(smooth(midpoints)), step));
    }
  }
  return path;
}

const ROWS = 2 ** 24;  // encodes a corner of a pixel as one number: more rows than any image has
const corner = (x, y) => x * ROWS + y;
const split = (key) => [Math.floor(key / ROWS), key % ROWS];

// Returns a Map from each corner to the next one, or to a list of two where two outlines touch.
function listEdges(columns) {
  const edges = new Map();
  const add = (from, to) => {
    const other = edges.get(from);
    edges.set(from, other === undefined ? to : [other, to]);
  };
  const empty = [];
  for (const [x, rows] of columns) {
    for (let i = 0; i < rows.length; i += 2) {
      add(corner(x, rows[i]), corner(x + 1, rows[i]));
      add(corner(x + 1, rows[i + 1]), corner(x, rows[i + 1]));
    }
    addSides(add, x, columns.get(x - 1) ?? empty, rows);
    if (!columns.has(x + 1)) addSides(add, x + 1, rows, empty);
  }
  return edges;
}

// Adds the edges between adjacent columns: up where only the right one is inside, down where only the left one is.
function addSides(add, x, left, right) {
  let i = 0, j = 0, y = 0;
  while (i < left.length || j < right.length) {
    const next = Math.min(left[i] ?? Infinity, right[j] ?? Infinity);
    const inLeft = i % 2 === 1, inRight = j % 2 === 1;
    if (inRight && !inLeft) for (; y < next; y++) add(corner(x, y + 1), corner(x, y));
    if (inLeft && !inRight) for (; y < next; y++) add(corner(x, y), corner(x, y + 1));
    y = next;
    if (left[i] === next) i++;
    if (right[j] === next) j++;
  }
}

function takeEdge(edges, at) {
  const next = edges.get(at);
  if (Array.isArray(next)) {
    edges.set(at, next[1]);
    return next[0];
  }
  edges.delete(at);
  return next;
}

function smooth(points) {
  const count = points.length;
  if (count < 12) return points;  // a speck would vanish
  return points.map(([x, y], i) => {
    const [x1, y1] = points[(i + count - 1) % count], [x2, y2] = points[(i + 1) % count];
    return [(x1 + 2 * x + x2) / 4, (y1 + 2 * y + y2) / 4];
  });
}

function thin(points, step) {
  if (points.length < 12) return points;
  let last = points[0];
  return points.filter((point, i) => {
    const keep = i === 0 || Math.hypot(point[0] - last[0], point[1] - last[1]) >= step;
    if (keep) last = point;
    return keep;
  });
}

function addLoop(path, points) {
  points.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
  path.closePath();
}
