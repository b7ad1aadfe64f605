// The demo's page: a picture goes to the server once; threshold and classes are then a matter of this page alone.
//
// Before: a picture dropped, chosen or pasted. After: viewer.js.

import { Viewer, ask } from "./viewer.js";

const at = (id) => document.getElementById(id);
const model = await ask("/api/model").catch((error) => {
  tell(error.message);
  throw error;
});
const viewer = new Viewer(document.body, model.classes);
let picture = null;  // the File at hand
let request = null;  // the AbortController of the question that is under way

at("model").textContent = model.name;
at("limits").textContent =
  `up to ${megas(model.largest_picture)} megapixels, ${megas(model.largest_body)} megabytes; it stays on this machine`;
setThreshold(model.threshold);

async function look(file) {
  if (file.size > model.largest_body) {
    tell(`${file.name}: ${(file.size / 1e6).toFixed(1)} megabytes, more than ${megas(model.largest_body)}.`);
    return;
  }
  request?.abort();
  request = new AbortController();
  const { signal } = request;
  tell("");
  const before = at("photo").src, status = at("status").textContent;
  const address = URL.createObjectURL(file);
  at("status").textContent = "Looking …";
  try {
    const size = await measure(address);
    if (signal.aborted) return;
    if (size) await show(address, size);
    at("busy").hidden = false;
    const started = performance.now();
    const found = await ask("/api/detect", { method: "POST", body: file, signal });
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    if (!size || size.width !== found.width || size.height !== found.height) {
      // A format that this browser does not show, or turns another way: as the server sees it.
      const seen = await ask("/api/picture", { method: "POST", body: file, signal });
      await show(seen.picture, found);
    }
    at("panel").hidden = false;
    viewer.setObjects(found.objects);
    setPicture(file);
    at("status").textContent = `${file.name} · ${found.width} × ${found.height} · ${seconds} s`;
    document.body.dataset.picture = file.name;
  } catch (error) {
    if (error.name === "AbortError") return;
    tell(`${file.name}: ${error.message}`);
    at("status").textContent = picture ? status : "";  // the picture before may still be there
  } finally {
    if (request.signal === signal) at("busy").hidden = true;
    if (before.startsWith("blob:") && before !== at("photo").src) URL.revokeObjectURL(before);
  }
}

// How large the browser finds a picture; null where it cannot read it.
async function measure(address) {
  const image = new Image();
  image.src = address;
  return image.decode().then(
    () => ({ width: image.naturalWidth, height: image.naturalHeight }),
    () => null,
  );
}

async function show(address, size) {
  setPicture(null);
  at("welcome").hidden = true;
  at("layers").hidden = false;
  at("another").hidden = false;
  await viewer.open(address, size);
}

// file: what the objects shown are of; null while they are not known.
function setPicture(file) {
  picture = file;
  for (const name of ["save-picture", "save-results"]) at(name).disabled = file === null;
}

function tell(line) {
  at("error").textContent = line;
  at("error").hidden = !line;
}

function setThreshold(threshold) {
  at("threshold").value = threshold;
  at("least").textContent = `${Math.round(100 * threshold)}%`;
  viewer.setThreshold(threshold);
}

function megas(number) {
  return String(Math.round(number / 1e4) / 100);
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const stem = () => picture.name.replace(/\.[^.]*$/, "") || "picture";

viewer.onchange = (objects) => {
  at("number").textContent = objects.length;
};
at("threshold").addEventListener("input", (event) => setThreshold(Number(event.target.value)));
at("all").addEventListener("click", () => viewer.hide([]));
at("none").addEventListener("click", () => viewer.hide(model.classes.map((one) => one.id)));
at("save-picture").addEventListener("click", async () => save(await viewer.save(), `${stem()}_htc.png`));
at("save-results").addEventListener("click", () => {
  // COCO names its files by their image id.
  const image_id = /^\d+$/.test(stem()) ? Number(stem()) : 0;
  const results = viewer.shown().map(({ result }) => ({ ...result, image_id, file_name: picture.name }));
  save(new Blob([JSON.stringify(results)], { type: "application/json" }), `${stem()}.json`);
});

for (const input of document.querySelectorAll("input.file")) {
  input.addEventListener("change", () => {
    if (input.files.length) look(input.files[0]);
    input.value = "";  // so that the same file can be chosen again
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) look(event.clipboardData.files[0]);
});
let inside = 0;  // a drag enters and leaves every element on its way
for (const [event, step] of [["dragenter", 1], ["dragleave", -1]]) {
  document.addEventListener(event, () => {
    inside += step;
    at("drop").hidden = inside <= 0;
  });
}
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  at("drop").hidden = true;
  if (event.dataTransfer.files.length) look(event.dataTransfer.files[0]);
  else tell("That is no file: save the picture first, or copy it and paste it here.");
});
document.body.dataset.ready = "";
