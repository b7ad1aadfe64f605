// Dataset browser: a filter, cards with thumbnails and ground truth, and a large view. The server's index may still grow.
//
// The filter is part of the address after #, so that "back" works and a view can be bookmarked.

import { drawObjects } from "./draw.js";
import { LargeView } from "./large.js";
import { element, fetchJSON, readObject } from "./viewer.js";

const COUNT = 48;  // images per page
const at = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");

const filter = { class: "", size: "", id: "", from: 0 };
let dataset = await fetchJSON("/api/dataset").catch((error) => {
  showError(error.message);
  throw error;
});
let total = 0, positions = [], latest = 0;
const classes = new Map(dataset.classes.map((one) => [one.id, one]));
const large = new LargeView(dataset, step);

const nearby = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    nearby.unobserve(target);
    fill(target);
  }
}, { rootMargin: "200px" });

at("name").textContent = document.title = dataset.name;
at("numbers").textContent =
  `${number(dataset.images)} images · ${number(dataset.objects)} objects · ${number(dataset.classes.length)} classes`;
at("size").append(option("", "any"), ...dataset.sizes.map((size) => option(size, size === "crowd" ? "crowd regions" : size)));
listClasses();
readAddress();
await load();
watch();
document.body.dataset.ready = "";

// Loads a page of matching images.
async function load() {
  const mine = ++latest;
  const query = new URLSearchParams({ class: filter.class, size: filter.size, id: filter.id, from: filter.from, count: COUNT });
  try {
    const found = await fetchJSON(`/api/images?${query}`);
    if (mine !== latest) return;
    showError(dataset.problem);
    const same = positions.length > 0 && positions.every((position, i) => position === found.positions[i]);
    const known = same ? positions.length : 0;  // while the index grows, existing cards stay
    [total, positions] = [found.total, found.positions];
    if (!same) at("cards").replaceChildren();
    at("cards").append(...positions.slice(known).map(makeCard));
  } catch (error) {
    if (mine !== latest) return;
    [total, positions] = [0, []];
    at("cards").replaceChildren();
    showError(error.message);
  }
  at("range").textContent = total ? `${number(filter.from + 1)}–${number(filter.from + positions.length)} of ${number(total)}` : "0";
  const pages = Math.max(1, Math.ceil(total / COUNT)), page = Math.floor(filter.from / COUNT) + 1;
  at("page").value = page;
  at("page").max = pages;
  at("pages").textContent = `of ${number(pages)}`;
  at("back").disabled = page <= 1;
  at("forward").disabled = page >= pages;
}

function makeCard(position) {
  const card = element("button", "card");
  card.type = "button";
  card.dataset.position = position;
  const caption = element("span", "caption");
  caption.append(element("span", "name", "…"), element("span"));
  card.append(element("span", "thumb stored"), caption);
  card.addEventListener("click", () => large.open(position));
  nearby.observe(card);
  return card;
}

// Draws the thumbnail and its objects; objects that do not match the filter are faint.
async function fill(card) {
  const [thumb, caption] = card.children;
  const image = element("img"), canvas = element("canvas");
  image.alt = "";
  try {
    const truth = await fetchJSON(`/api/images/${card.dataset.position}`);
    image.src = `/api/images/${card.dataset.position}/thumbnail`;
    await image.decode();
    thumb.append(image, canvas);
    const box = thumb.getBoundingClientRect();
    const zoom = Math.min(box.width / truth.width, box.height / truth.height);
    const density = window.devicePixelRatio || 1;
    for (const layer of [image, canvas]) {
      layer.style.width = `${truth.width * zoom}px`;
      layer.style.height = `${truth.height * zoom}px`;
    }
    [canvas.width, canvas.height] = [truth.width * zoom * density, truth.height * zoom * density].map(Math.round);
    const objects = truth.objects.map((object) => readObject(object, classes));
    const scale = canvas.width / truth.width, unit = 1.4 * density, show = { masks: true, boxes: false, labels: false };
    drawObjects(canvas, objects.filter((object) => !matches(object)), { scale, unit, show, opacity: 0.3 });
    drawObjects(canvas, objects.filter(matches), { scale, unit, show });
    caption.firstChild.textContent = truth.id;
    caption.lastChild.textContent = `${truth.objects.length} object${truth.objects.length === 1 ? "" : "s"}`;
    card.setAttribute("aria-label", `Image ${truth.id}, ${caption.lastChild.textContent}`);
    card.dataset.objects = objects.filter(matches).length;
  } catch (error) {
    caption.firstChild.textContent = error.message;
  }
}

function matches({ result }) {
  const label = ["", "none"].includes(filter.class) || String(result.category_id) === filter.class;
  return label && (!filter.size || result.size === filter.size);
}

// Opens the next or previous matching image in the large view.
async function step(position, by) {
  let next = positions.indexOf(position) + by;
  if (next < 0 || next >= positions.length) {
    const from = filter.from + by * COUNT;
    if (from < 0 || from >= total) return;
    setFilter({ from });
    await load();
    next = by > 0 ? 0 : positions.length - 1;
  }
  if (positions.length) large.open(positions[next]);
}

function setFilter(changes) {
  Object.assign(filter, { from: 0 }, changes);
  const kept = Object.entries(filter).filter(([, value]) => value);
  history.pushState(null, "", `#${new URLSearchParams(kept)}`);
}

function readAddress() {
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const name of ["class", "size", "id"]) {
    filter[name] = kept.get(name) ?? "";
    at(name).value = filter[name];
  }
  filter.from = Math.max(0, Math.floor(Number(kept.get("from")) / COUNT) * COUNT) || 0;
}

function listClasses() {
  const rows = dataset.classes.map((one) => option(one.id, `${one.name} (${number(one.objects)})`));
  at("class").replaceChildren(option("", "any"), option("none", "without objects"), ...rows);
  at("class").value = filter.class;
}

function option(value, text) {
  const made = element("option", "", text);
  made.value = value;
  return made;
}

// Shows the progress of the index while it grows, and adds cards until the page is full.
async function watch() {
  while (!dataset.done) {
    at("progress").hidden = false;
    at("progress").value = dataset.indexed / Math.max(dataset.images, 1);
    at("progress").title = `${number(dataset.indexed)} of ${number(dataset.images)} images indexed`;
    await new Promise((resolve) => setTimeout(resolve, 700));
    try {
      dataset = await fetchJSON("/api/dataset");
    } catch (error) {
      showError(error.message);
      return;
    }
    if (document.activeElement !== at("class")) listClasses();
    await load();
  }
  listClasses();
  at("progress").hidden = true;
}

function showError(line) {
  at("error").textContent = line;
  at("error").hidden = !line;
}

at("filter").addEventListener("submit", (event) => event.preventDefault());
for (const name of ["class", "size", "id"]) {
  at(name).addEventListener(name === "id" ? "input" : "change", () => {
    setFilter({ [name]: at(name).value.trim() });
    load();
  });
}
function goTo(from) {
  setFilter({ from: Math.max(0, Math.min(from, Math.floor(Math.max(total - 1, 0) / COUNT) * COUNT)) });
  load();
  window.scrollTo(0, 0);
}
at("back").addEventListener("click", () => goTo(filter.from - COUNT));
at("forward").addEventListener("click", () => goTo(filter.from + COUNT));
at("page").addEventListener("change", () => goTo((Math.round(Number(at("page").value)) - 1 || 0) * COUNT));
window.addEventListener("popstate", () => {
  readAddress();
  load();
});
