// One image of the data set, large: its truth, class by class, and what training's augmentations make of it.
//
// Before: album.js, where a card was chosen. After: viewer.js.

import { Viewer, ask, element } from "./viewer.js";

const DRAWS = 5;  // augmented pictures at a time
const at = (id) => document.getElementById(id);

export class LargeView {
  // data: the server's description of the data set.
  // step: function (place, by) that opens the next image, by = 1, or the one before, by = -1.
  constructor(data, step) {
    this.data = data;
    this.place = null;
    this.dialog = at("large");
    this.viewer = new Viewer(this.dialog, data.classes);
    this.viewer.onchange = (objects) => (at("number").textContent = objects.length);
    at("all").addEventListener("click", () => this.viewer.hide([]));
    at("none").addEventListener("click", () => this.viewer.hide(data.classes.map((one) => one.id)));
    at("previous").addEventListener("click", () => step(this.place, -1));
    at("next").addEventListener("click", () => step(this.place, 1));
    at("close").addEventListener("click", () => this.dialog.close());
    at("more").addEventListener("click", () => this.augment());
    this.dialog.addEventListener("close", () => (this.place = null));
    this.dialog.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by && !event.altKey && !event.ctrlKey && !event.metaKey) step(this.place, by);
    });
    const names = data.augmentations;
    at("training").hidden = !names;
    at("augmentations").textContent = names?.join(", ") || "This configuration changes nothing.";
  }

  async open(place) {
    this.place = place;
    if (!this.dialog.open) this.dialog.showModal();
    at("draws").replaceChildren();
    try {
      const truth = await ask(`/api/images/${place}`);
      if (this.place !== place) return;
      tell("");
      at("title").textContent = truth.file_name || truth.id;
      at("about").textContent = `id ${truth.id} · ${truth.width} × ${truth.height} pixels`;
      const picture = `/api/images/${place}/picture`;
      if (this.data.augmentations) {
        this.addDraw("stored", { ...truth, picture: `/api/images/${place}/thumbnail` }, { ...truth, picture });
      }
      await this.show({ ...truth, picture });
      this.dialog.dataset.place = place;
      if (this.data.augmentations?.length) await this.augment();
    } catch (error) {
      if (this.place === place) tell(error.message);
    }
  }

  async show(image) {
    const opened = this.viewer.open(image.picture, image);
    this.viewer.setObjects(image.objects);
    await opened;
  }

  // A few more of the ways in which training may see the image.
  async augment() {
    const { place } = this;
    at("more").disabled = true;
    try {
      const first = Math.max(0, at("draws").children.length - 1);
      for (let draw = first; draw < first + DRAWS; draw++) {
        const image = await ask(`/api/images/${place}/augmented/${draw}`);
        if (this.place !== place) return;
        this.addDraw(String(draw + 1), image, image);
      }
    } catch (error) {
      if (this.place === place) tell(error.message);
    } finally {
      at("more").disabled = false;
    }
  }

  addDraw(name, thumbnail, image) {
    const button = element("button"), picture = element("img");
    button.type = "button";
    button.title = name === "stored" ? "As it is stored" : `Draw ${name}: ${image.width} × ${image.height} pixels`;
    button.setAttribute("aria-pressed", name === "stored");
    picture.src = thumbnail.picture;
    picture.alt = "";
    button.append(picture, element("span", "", name));
    button.addEventListener("click", async () => {
      for (const other of at("draws").children) other.setAttribute("aria-pressed", other === button);
      await this.show(image).catch((error) => tell(error.message));
    });
    at("draws").append(button);
  }
}

function tell(line) {
  at("problem").textContent = line;
  at("problem").hidden = !line;
}
