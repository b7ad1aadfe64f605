// Demo page: sends a dropped, chosen or pasted image to the server, and shows the detections. Threshold and classes are
// filtered in the page.

import { Viewer, fetchJSON } from "./viewer.js";

const at = (id) => document.getElementById(id);
const model = await fetchJSON("/api/model").catch((error) => {
  showError(error.message);
  throw error;
});
const viewer = new Viewer(document.body, model.classes);
let current = null;  // the File whose detections are shown
let request = null;  // the AbortController of the current request

at("model").textContent = model.name;
at("limits").textContent =
  `up to ${millions(model.max_pixels)} megapixels and ${millions(model.max_bytes)} megabytes; it stays on this machine`;
setThreshold(model.threshold);

async function detect(file) {
  if (file.size > model.max_bytes) {
    showError(`${file.name}: ${(file.size / 1e6).toFixed(1)} megabytes, more than ${millions(model.max_bytes)}.`);
    return;
  }
  request?.abort();
  request = new AbortController();
  const { signal } = request;
  showError("");
  const previous = at("image").src, status = at("status").textContent;
  const address = URL.createObjectURL(file);
  at("status").textContent = "Detecting …";
  try {
    const size = await measure(address);
    if (signal.aborted) return;
    if (size) await show(address, size);
    at("busy").hidden = false;
    const started = performance.now();
    const found = await fetchJSON("/api/detect", { method: "POST", body: file, signal });
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    if (!size || size.width !== found.width || size.height !== found.height) {
      // The browser cannot show this format, or rotates it differently: show what the server decodes.
      const decoded = await fetchJSON("/api/image", { method: "POST", body: file, signal });
      await show(decoded.image, found);
    }
    at("panel").hidden = false;
    viewer.setObjects(found.objects);
    setFile(file);
    at("status").textContent = `${file.name} · ${found.width} × ${found.height} · ${seconds} s`;
    document.body.dataset.file = file.name;
  } catch (error) {
    if (error.name === "AbortError") return;
    showError(`${file.name}: ${error.message}`);
    at("status").textContent = current ? status : "";  // the previous image may still be shown
  } finally {
    if (request.signal === signal) at("busy").hidden = true;
    if (previous.startsWith("blob:") && previous !== at("image").src) URL.revokeObjectURL(previous);
  }
}

// Returns the size of an image in this browser, or null if it cannot decode it.
async function measure(address) {
  const image = new Image();
  image.src = address;
  return image.decode().then(
    () => ({ width: image.naturalWidth, height: image.naturalHeight }),
    () => null,
  );
}

async function show(address, size) {
  setFile(null);
  at("welcome").hidden = true;
  at("layers").hidden = false;
  at("another").hidden = false;
  await viewer.open(address, size);
}

// file: the File of the displayed objects, or null if there are none yet.
function setFile(file) {
  current = file;
  for (const name of ["save-image", "save-results"]) at(name).disabled = file === null;
}

function showError(line) {
  at("error").textContent = line;
  at("error").hidden = !line;
}

function setThreshold(threshold) {
  at("threshold").value = threshold;
  at("minimum").textContent = `${Math.round(100 * threshold)}%`;
  viewer.setThreshold(threshold);
}

function millions(number) {
  return String(Math.round(number / 1e4) / 100);
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const stem = () => current.name.replace(/\.[^.]*$/, "") || "image";

viewer.onchange = (objects) => {
  at("number").textContent = objects.length;
};
at("threshold").addEventListener("input", (event) => setThreshold(Number(event.target.value)));
at("all").addEventListener("click", () => viewer.hide([]));
at("none").addEventListener("click", () => viewer.hide(model.classes.map((one) => one.id)));
at("save-image").addEventListener("click", async () => save(await viewer.save(), `${stem()}_htc.png`));
at("save-results").addEventListener("click", () => {
  // COCO's file names are image ids.
  const image_id = /^\d+$/.test(stem()) ? Number(stem()) : 0;
  const results = viewer.shown().map(({ result }) => ({ ...result, image_id, file_name: current.name }));
  save(new Blob([JSON.stringify(results)], { type: "application/json" }), `${stem()}.json`);
});

for (const input of document.querySelectorAll("input.file")) {
  input.addEventListener("change", () => {
    if (input.files.length) detect(input.files[0]);
    input.value = "";  // the same file can be chosen again
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) detect(event.clipboardData.files[0]);
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
  if (event.dataTransfer.files.length) detect(event.dataTransfer.files[0]);
  else showError("This is not a file: save the image first, or copy it and paste it here.");
});
document.body.dataset.ready = "";
