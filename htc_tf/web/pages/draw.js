// Draws objects on a canvas: tinted masks with outlines, boxes, and labels that do not overlap.

const MANY = 15;  // more objects than this get smaller labels
const MAX_NAME = 32;  // characters of a label

// Draws objects, the largest first.
//   objects: [{bbox: [x, y, width, height], mask or null, class: {name, color, text_color}, score or null, crowd}], best
//     first.
//   scale: canvas pixels per image pixel.
//   unit: width of a thin line in canvas pixels.
//   show: {masks, boxes, labels}. An object without a mask keeps its box.
//   focus: the object to highlight, or null; the others fade.
//   opacity: 0 ... 1.
export function drawObjects(canvas, objects, { scale, unit, show, focus = null, opacity = 1 }) {
  const pen = canvas.getContext("2d");
  pen.lineJoin = "round";
  const order = [...objects].sort((a, b) => area(b) - area(a));
  if (focus) order.push(...order.splice(order.indexOf(focus), 1));
  for (const object of order) {
    pen.globalAlpha = focus && object !== focus ? 0.35 * opacity : opacity;
    drawObject(pen, object, scale, object === focus ? 1.7 * unit : unit, show, object === focus);
  }
  pen.globalAlpha = 1;
  if (show.labels) drawLabels(canvas, focus ? [focus] : objects, scale, (objects.length > MANY ? 5 : 6.3) * unit);
}

function drawObject(pen, object, scale, line, show, focused) {
  const hasMask = object.mask && show.masks;
  if (show.boxes || focused || !hasMask) {
    const [x, y, width, height] = object.bbox.map((side) => side * scale);
    const box = new Path2D();
    box.roundRect(x, y, Math.max(width, 1), Math.max(height, 1), 2 * line);
    stroke(pen, box, object.class.color, hasMask ? 0.6 * line : line, object.crowd, hasMask ? 0.7 : 1);
  }
  if (hasMask) {
    pen.save();
    pen.scale(scale, scale);
    const outline = object.mask.outline(1 / scale);
    const opacity = pen.globalAlpha;
    const confidence = object.score === null ? 1 : 0.5 + 0.5 * object.score;
    pen.globalAlpha = opacity * (focused ? 0.45 : 0.36 * confidence);
    pen.fillStyle = object.class.color;
    pen.fill(outline, "evenodd");
    pen.globalAlpha = opacity;
    stroke(pen, outline, object.class.color, line / scale, object.crowd);
    pen.restore();
  }
}

// Strokes a colored line with a faint dark rim, which is visible on any image.
function stroke(pen, path, color, line, dashed, strength = 1) {
  const opacity = pen.globalAlpha;
  pen.setLineDash(dashed ? [4 * line, 3 * line] : []);
  pen.globalAlpha = opacity * 0.3 * strength;
  pen.strokeStyle = "black";
  pen.lineWidth = 2 * line;
  pen.stroke(path);
  pen.globalAlpha = opacity * strength;
  pen.strokeStyle = color;
  pen.lineWidth = line;
  pen.stroke(path);
  pen.setLineDash([]);
  pen.globalAlpha = opacity;
}

// Draws labels with name and score. A label that would overlap others at every position is omitted: its color still
// shows the class.
function drawLabels(canvas, objects, scale, size) {
  const pen = canvas.getContext("2d");
  pen.font = `600 ${size}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  const taken = [];
  for (const object of objects) {
    const [x, y, w, h] = object.bbox.map((side) => side * scale);
    for (const text of new Set([label(object, short), short(object.class.name)])) {
      const width = pen.measureText(text).width + 0.9 * size, height = 1.55 * size;
      const free = [[x, y - height], [x, y], [x + w - width, y - height], [x, y + h], [x, y + h - height], [x + w, y]]
        .map(([left, top]) => [clamp(left, canvas.width - width), clamp(top, canvas.height - height)])
        .find(([left, top]) => !taken.some((other) => overlap(other, [left, top, width, height])));
      if (!free) continue;
      taken.push([...free, width, height]);
      pen.globalAlpha = 0.94;
      pen.fillStyle = object.class.color;
      pen.beginPath();
      pen.roundRect(...free, width, height, 0.35 * size);
      pen.fill();
      pen.globalAlpha = 1;
      pen.fillStyle = object.class.text_color;
      pen.fillText(text, free[0] + 0.45 * size, free[1] + 0.53 * height);
      break;
    }
  }
}

// Returns name and score of an object. cut: function that shortens the name.
export function label(object, cut = String) {
  const extra = object.score === null ? (object.crowd ? " (crowd)" : "") : ` ${percent(object.score)}`;
  return cut(object.class.name) + extra;
}

function short(name) {
  const letters = [...name];
  return letters.length > MAX_NAME ? `${letters.slice(0, MAX_NAME - 1).join("")}…` : name;
}

export const percent = (score) => (score < 0.01 ? `${(100 * score).toFixed(1)}%` : `${Math.round(100 * score)}%`);

const area = (object) => object.bbox[2] * object.bbox[3];
const clamp = (value, limit) => Math.max(0, Math.min(value, limit));
const overlap = ([x, y, w, h], [x2, y2, w2, h2]) => x < x2 + w2 && x2 < x + w && y < y2 + h2 && y2 < y + h;
