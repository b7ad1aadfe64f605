// Viewer: an image with its objects, scaled to the available space, and lists of its classes and objects beside it.

import { drawObjects, label, percent } from "./draw.js";
import { Mask } from "./masks.js";

const MAX_ZOOM = 5;
const MIN_SAVED = 1280;  // pixels of the longer side of a saved image: small images are enlarged

export class Viewer {
  // root: contains elements with the data-part stage, image (an img), overlay (a canvas), tip, classes and objects, and
  //   optional check boxes with data-show="masks", "boxes", "labels".
  // classes: [{id, name, color, text_color}].
  constructor(root, classes) {
    this.part = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
    this.classes = new Map(classes.map((one) => [one.id, one]));
    this.hidden = new Set();
    this.objects = [];
    this.threshold = 0;
    this.show = { masks: true, boxes: true, labels: true };
    this.focus = null;
    this.size = null;
    this.onchange = () => {};
    for (const box of root.querySelectorAll("[data-show]")) {
      box.addEventListener("change", () => {
        this.show[box.dataset.show] = box.checked;
        this.draw();
      });
    }
    new ResizeObserver(() => this.fit()).observe(this.part.stage);
    this.part.overlay.addEventListener("pointermove", (event) => this.point(event));
    this.part.overlay.addEventListener("pointerdown", (event) => this.point(event));
    this.part.overlay.addEventListener("pointerleave", () => this.setFocus(null));
  }

  // Shows an image without objects.
  //   source: URL; size: {width, height} in pixels.
  async open(source, size) {
    this.part.image.src = source;
    this.size = size;
    this.setObjects([]);
    this.fit();
    await this.part.image.decode();
  }

  // results: COCO results, best first, or COCO annotations.
  setObjects(results) {
    this.objects = results.map((result) => readObject(result, this.classes));
    this.update();
  }

  setThreshold(threshold) {
    this.threshold = threshold;
    this.update();
  }

  hide(ids) {
    this.hidden = new Set(ids);
    this.update();
  }

  above() {
    return this.objects.filter((object) => object.score === null || object.score >= this.threshold);
  }

  shown() {
    return this.above().filter((object) => !this.hidden.has(object.class.id));
  }

  update() {
    this.focus = null;
    this.listClasses();
    this.listObjects();
    this.draw();
    this.onchange(this.shown());
  }

  listClasses() {
    const counts = new Map();
    for (const object of this.objects) counts.set(object.class, 0);
    for (const object of this.above()) counts.set(object.class, counts.get(object.class) + 1);
    const rows = [...this.classes.values()].filter((one) => counts.has(one)).map((one) => this.classRow(one, counts.get(one)));
    replaceRows(this.part.classes, rows);
  }

  classRow(one, count) {
    const row = element("label", "class");
    row.dataset.key = one.id;
    row.dataset.empty = count === 0;
    const box = element("input");
    box.type = "checkbox";
    box.checked = !this.hidden.has(one.id);
    box.addEventListener("change", () => {
      box.checked ? this.hidden.delete(one.id) : this.hidden.add(one.id);
      this.update();
    });
    row.append(box, swatch(one), element("span", "name", one.name), element("span", "count", count));
    return row;
  }

  listObjects() {
    const rows = this.shown().map((object) => {
      const row = element("button", "object");
      row.type = "button";
      row.dataset.key = this.objects.indexOf(object);
      row.append(swatch(object.class), element("span", "name", object.class.name + (object.crowd ? " (crowd)" : "")));
      row.append(element("span", "count", object.score === null ? sides(object.bbox) : percent(object.score)));
      row.title = summary(object);
      for (const event of ["pointerenter", "focus"]) row.addEventListener(event, () => this.setFocus(object));
      for (const event of ["pointerleave", "blur"]) row.addEventListener(event, () => this.setFocus(null));
      return row;
    });
    replaceRows(this.part.objects, rows);
  }

  // Fits the image into the stage, with its aspect ratio; the overlay has the resolution of the screen.
  fit() {
    const { stage, image, overlay } = this.part;
    if (!this.size || !stage.clientWidth) return;
    const { width, height } = this.size;
    const zoom = Math.min(stage.clientWidth / width, stage.clientHeight / height, MAX_ZOOM);
    for (const layer of [image, overlay]) {
      layer.style.width = `${width * zoom}px`;
      layer.style.height = `${height * zoom}px`;
    }
    const density = window.devicePixelRatio || 1;
    overlay.width = Math.max(1, Math.round(width * zoom * density));
    overlay.height = Math.max(1, Math.round(height * zoom * density));
    this.draw();
  }

  draw() {
    if (!this.size) return;
    const { overlay } = this.part;
    overlay.getContext("2d").clearRect(0, 0, overlay.width, overlay.height);
    const scale = overlay.width / this.size.width;
    const unit = (window.devicePixelRatio || 1) * Math.max(1.8, 0.0026 * Math.sqrt(overlay.clientWidth * overlay.clientHeight));
    drawObjects(overlay, this.shown(), { scale, unit, show: this.show, focus: this.focus });
  }

  point(event) {
    const rect = this.part.overlay.getBoundingClientRect();
    const x = ((event.clientX - rect.left) / rect.width) * this.size.width;
    const y = ((event.clientY - rect.top) / rect.height) * this.size.height;
    this.setFocus(this.find(x, y), [event.clientX, event.clientY]);
  }

  // Returns the smallest object at a pixel, by its mask, or by its box if it has none.
  find(x, y) {
    const inBox = ({ bbox: [left, top, width, height] }) => x >= left && y >= top && x < left + width && y < top + height;
    const atPoint = this.shown().filter((object) => inBox(object));
    const masked = atPoint.filter((object) => object.mask?.contains(Math.floor(x), Math.floor(y)));
    const found = masked.length ? masked : atPoint.filter((object) => !object.mask);
    return found.sort((a, b) => a.bbox[2] * a.bbox[3] - b.bbox[2] * b.bbox[3])[0] ?? null;
  }

  // pointer: [x, y] of the pointer, or null if the object was chosen in the list.
  setFocus(object, pointer = null) {
    const { tip, objects } = this.part;
    tip.hidden = !object || !pointer;
    if (!tip.hidden) {
      tip.textContent = summary(object);
      const left = Math.min(pointer[0] + 14, window.innerWidth - tip.offsetWidth - 8);
      const below = pointer[1] + 18 + tip.offsetHeight < window.innerHeight;
      tip.style.left = `${left}px`;
      tip.style.top = `${below ? pointer[1] + 18 : pointer[1] - 10 - tip.offsetHeight}px`;
    }
    if (object === this.focus) return;
    this.focus = object;
    const key = String(this.objects.indexOf(object));
    for (const row of objects.children) row.classList.toggle("focused", row.dataset.key === key);
    this.draw();
  }

  // Returns a PNG of the image with the displayed objects, in the resolution of the image.
  async save() {
    const { width, height } = this.size;
    const scale = Math.max(1, MIN_SAVED / Math.max(width, height));
    const canvas = element("canvas");
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    canvas.getContext("2d").drawImage(this.part.image, 0, 0, canvas.width, canvas.height);
    const unit = Math.max(1.8, 0.003 * Math.sqrt(canvas.width * canvas.height));
    drawObjects(canvas, this.shown(), { scale: canvas.width / width, unit, show: this.show });
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }
}

export function element(name, className = "", text = null) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== null) made.textContent = text;
  return made;
}

export function swatch(one) {
  const made = element("span", "swatch");
  made.style.background = one.color;
  return made;
}

// Converts a COCO result or annotation to an object for draw.js. classes: Map from category id to class.
export function readObject(result, classes) {
  const id = result.category_id;
  return {
    result,
    bbox: result.bbox,
    mask: result.segmentation ? new Mask(result.segmentation) : null,
    class: classes.get(id) ?? { id, name: `category ${id}`, color: "#808080", text_color: "#ffffff" },
    score: result.score ?? null,
    crowd: Boolean(result.iscrowd),
  };
}

// Returns the JSON reply of the server, or throws an Error with its message.
export async function fetchJSON(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not respond. Is it still running?");
  }
  const reply = await response.json().catch(() => ({ error: `The server replied with status ${response.status}.` }));
  if (!response.ok) throw new Error(reply.error);
  return reply;
}

// Replaces the rows of a list and keeps the keyboard focus.
function replaceRows(list, rows) {
  const held = document.activeElement?.closest("[data-key]");
  const key = held && list.contains(held) ? held.dataset.key : null;
  list.replaceChildren(...rows);
  const again = key === null ? null : rows.find((row) => row.dataset.key === key);
  if (again) (again.querySelector("input") ?? again).focus();
}

const sides = ([, , width, height]) => `${Math.round(width)} × ${Math.round(height)}`;

function summary(object) {
  const [x, y] = object.bbox.map((side) => Math.round(side));
  return `${label(object)} · ${sides(object.bbox)} pixels at ${x}, ${y}`;
}
