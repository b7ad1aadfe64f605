// Large view of one image of the dataset: its ground truth, class by class, and augmented versions of it.

import { Viewer, element, fetchJSON } from "./viewer.js";

const DRAWS = 5;  // augmented images at a time
const at = (id) => document.getElementById(id);

export class LargeView {
  // dataset: the server's description of the dataset.
  // step: function (position, by) that opens the next (by = 1) or the previous (by = -1) image.
  constructor(dataset, step) {
    this.dataset = dataset;
    this.position = null;
    this.dialog = at("large");
    this.viewer = new Viewer(this.dialog, dataset.classes);
    this.viewer.onchange = (objects) => (at("number").textContent = objects.length);
    at("all").addEventListener("click", () => this.viewer.hide([]));
    at("none").addEventListener("click", () => this.viewer.hide(dataset.classes.map((one) => one.id)));
    at("previous").addEventListener("click", () => step(this.position, -1));
    at("next").addEventListener("click", () => step(this.position, 1));
    at("close").addEventListener("click", () => this.dialog.close());
    at("more").addEventListener("click", () => this.augment());
    this.dialog.addEventListener("close", () => (this.position = null));
    this.dialog.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by && !event.altKey && !event.ctrlKey && !event.metaKey) step(this.position, by);
    });
    const names = dataset.augmentations;
    at("training").hidden = !names;
    at("augmentations").textContent = names?.join(", ") || "This configuration has no augmentations.";
  }

  async open(position) {
    this.position = position;
    if (!this.dialog.open) this.dialog.showModal();
    at("draws").replaceChildren();
    try {
      const image = await fetchJSON(`/api/images/${position}`);
      if (this.position !== position) return;
      showError("");
      at("title").textContent = image.file_name || image.id;
      at("about").textContent = `id ${image.id} · ${image.width} × ${image.height} pixels`;
      const stored = { ...image, image: `/api/images/${position}/file` };
      if (this.dataset.augmentations) {
        this.addDraw("stored", `/api/images/${position}/thumbnail`, stored);
      }
      await this.show(stored);
      this.dialog.dataset.position = position;
      if (this.dataset.augmentations?.length) await this.augment();
    } catch (error) {
      if (this.position === position) showError(error.message);
    }
  }

  async show(image) {
    const opened = this.viewer.open(image.image, image);
    this.viewer.setObjects(image.objects);
    await opened;
  }

  // Adds augmented versions of the image.
  async augment() {
    const { position } = this;
    at("more").disabled = true;
    try {
      const first = Math.max(0, at("draws").children.length - 1);
      for (let draw = first; draw < first + DRAWS; draw++) {
        const image = await fetchJSON(`/api/images/${position}/augmented/${draw}`);
        if (this.position !== position) return;
        this.addDraw(String(draw + 1), image.image, image);
      }
    } catch (error) {
      if (this.position === position) showError(error.message);
    } finally {
      at("more").disabled = false;
    }
  }

  addDraw(name, source, image) {
    const button = element("button"), thumbnail = element("img");
    button.type = "button";
    button.title = name === "stored" ? "As stored" : `Draw ${name}: ${image.width} × ${image.height} pixels`;
    button.setAttribute("aria-pressed", name === "stored");
    thumbnail.src = source;
    thumbnail.alt = "";
    button.append(thumbnail, element("span", "", name));
    button.addEventListener("click", async () => {
      for (const other of at("draws").children) other.setAttribute("aria-pressed", other === button);
      await this.show(image).catch((error) => showError(error.message));
    });
    at("draws").append(button);
  }
}

function showError(line) {
  at("problem").textContent = line;
  at("problem").hidden = !line;
}
