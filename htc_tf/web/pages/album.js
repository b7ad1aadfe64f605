// The data set's page: a filter, cards with thumbnails and truth, and one image large.
//
// Before: the server's index, which may still grow. After: draw.js on the cards, viewer.js for the large image.
// What is chosen stands in the address after #, so that "back" works and a view can be kept as a bookmark.

import { drawObjects } from "./draw.js";
import { LargeView } from "./large.js";
import { ask, element, readObject } from "./viewer.js";

const COUNT = 48;  // images a page
const at = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");

const chosen = { class: "", size: "", id: "", from: 0 };
let data = await ask("/api/dataset").catch((error) => {
  tell(error.message);
  throw error;
});
let total = 0, places = [], turn = 0;
const classes = new Map(data.classes.map((one) => [one.id, one]));
const large = new LargeView(data, step);

const nearby = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    nearby.unobserve(target);
    fill(target);
  }
}, { rootMargin: "200px" });

at("name").textContent = document.title = data.name;
at("numbers").textContent =
  `${number(data.images)} images · ${number(data.objects)} objects · ${number(data.classes.length)} classes`;
at("size").append(option("", "any"), ...data.sizes.map((size) => option(size, size === "crowd" ? "crowd regions" : size)));
listClasses();
readAddress();
await load();
watch();
document.body.dataset.ready = "";

// A page of images that fit.
async function load() {
  const mine = ++turn;
  const query = new URLSearchParams({ class: chosen.class, size: chosen.size, id: chosen.id, from: chosen.from, count: COUNT });
  try {
    const found = await ask(`/api/images?${query}`);
    if (mine !== turn) return;
    tell(data.problem);
    const same = places.length > 0 && places.every((place, i) => place === found.places[i]);
    const known = same ? places.length : 0;  // while the index grows, cards that stand stay
    [total, places] = [found.total, found.places];
    if (!same) at("cards").replaceChildren();
    at("cards").append(...places.slice(known).map(makeCard));
  } catch (error) {
    if (mine !== turn) return;
    [total, places] = [0, []];
    at("cards").replaceChildren();
    tell(error.message);
  }
  at("range").textContent = total ? `${number(chosen.from + 1)}–${number(chosen.from + places.length)} of ${number(total)}` : "0";
  const pages = Math.max(1, Math.ceil(total / COUNT)), page = Math.floor(chosen.from / COUNT) + 1;
  at("page").value = page;
  at("page").max = pages;
  at("pages").textContent = `of ${number(pages)}`;
  at("back").disabled = page <= 1;
  at("on").disabled = page >= pages;
}

function makeCard(place) {
  const card = element("button", "card");
  card.type = "button";
  card.dataset.place = place;
  const caption = element("span", "caption");
  caption.append(element("span", "name", "…"), element("span"));
  card.append(element("span", "thumb stored"), caption);
  card.addEventListener("click", () => large.open(place));
  nearby.observe(card);
  return card;
}

// The thumbnail, and over it those objects that the filter asks for; the others are faint.
async function fill(card) {
  const [thumb, caption] = card.children;
  const image = element("img"), canvas = element("canvas");
  image.alt = "";
  try {
    const truth = await ask(`/api/images/${card.dataset.place}`);
    image.src = `/api/images/${card.dataset.place}/thumbnail`;
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
    drawObjects(canvas, objects.filter((object) => !fits(object)), { scale, unit, show, opacity: 0.3 });
    drawObjects(canvas, objects.filter(fits), { scale, unit, show });
    caption.firstChild.textContent = truth.id;
    caption.lastChild.textContent = `${truth.objects.length} object${truth.objects.length === 1 ? "" : "s"}`;
    card.setAttribute("aria-label", `Image ${truth.id}, ${caption.lastChild.textContent}`);
    card.dataset.objects = objects.filter(fits).length;
  } catch (error) {
    caption.firstChild.textContent = error.message;
  }
}

function fits({ result }) {
  const label = ["", "none"].includes(chosen.class) || String(result.category_id) === chosen.class;
  return label && (!chosen.size || result.size === chosen.size);
}

// From the large image to the one after it, or before it, among those that fit.
async function step(place, by) {
  let next = places.indexOf(place) + by;
  if (next < 0 || next >= places.length) {
    const from = chosen.from + by * COUNT;
    if (from < 0 || from >= total) return;
    choose({ from });
    await load();
    next = by > 0 ? 0 : places.length - 1;
  }
  if (places.length) large.open(places[next]);
}

function choose(changes) {
  Object.assign(chosen, { from: 0 }, changes);
  const kept = Object.entries(chosen).filter(([, value]) => value);
  history.pushState(null, "", `#${new URLSearchParams(kept)}`);
}

function readAddress() {
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const name of ["class", "size", "id"]) {
    chosen[name] = kept.get(name) ?? "";
    at(name).value = chosen[name];
  }
  chosen.from = Math.max(0, Math.floor(Number(kept.get("from")) / COUNT) * COUNT) || 0;
}

function listClasses() {
  const rows = data.classes.map((one) => option(one.id, `${one.name} (${number(one.objects)})`));
  at("class").replaceChildren(option("", "any"), option("none", "no object at all"), ...rows);
  at("class").value = chosen.class;
}

function option(value, text) {
  const made = element("option", "", text);
  made.value = value;
  return made;
}

// While the index grows: how far it is, and more cards where the page is not full yet.
async function watch() {
  while (!data.done) {
    at("progress").hidden = false;
    at("progress").value = data.indexed / Math.max(data.images, 1);
    at("progress").title = `${number(data.indexed)} of ${number(data.images)} images indexed`;
    await new Promise((resolve) => setTimeout(resolve, 700));
    try {
      data = await ask("/api/dataset");
    } catch (error) {
      tell(error.message);
      return;
    }
    if (document.activeElement !== at("class")) listClasses();
    await load();
  }
  listClasses();
  at("progress").hidden = true;
}

function tell(line) {
  at("error").textContent = line;
  at("error").hidden = !line;
}

at("filter").addEventListener("submit", (event) => event.preventDefault());
for (const name of ["class", "size", "id"]) {
  at(name).addEventListener(name === "id" ? "input" : "change", () => {
    choose({ [name]: at(name).value.trim() });
    load();
  });
}
function turnTo(from) {
  choose({ from: Math.max(0, Math.min(from, Math.floor(Math.max(total - 1, 0) / COUNT) * COUNT)) });
  load();
  window.scrollTo(0, 0);
}
at("back").addEventListener("click", () => turnTo(chosen.from - COUNT));
at("on").addEventListener("click", () => turnTo(chosen.from + COUNT));
at("page").addEventListener("change", () => turnTo((Math.round(Number(at("page").value)) - 1 || 0) * COUNT));
window.addEventListener("popstate", () => {
  readAddress();
  load();
});
