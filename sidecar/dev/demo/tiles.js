/** The pictures: one tile for this device and one for every other in the call. */

import { MIC_OFF, icon } from "./icons.js";
import { avatar, make } from "./people.js";

const STATES = {
  new: "calling…",
  connecting: "connecting…",
  disconnected: "interrupted, waiting…",
  failed: "looking for another way…",
};

class Tile {
  constructor({ key, id, name, mirrored }) {
    this.video = make("video", { autoplay: true, playsInline: true, muted: mirrored });
    this.video.setAttribute("aria-label", `Picture of ${name}`);
    this.label = make("span", { class: "tile-name" }, name);
    this.detail = make("span", { class: "tile-detail" });
    this.muted = make("span", { class: "tile-muted", hidden: true, title: "Microphone off" });
    this.muted.append(icon(MIC_OFF), make("span", { class: "unseen" }, "microphone off"));
    this.sound = make("button", { type: "button", class: "tile-sound", hidden: true }, "Turn sound on");
    this.sound.addEventListener("click", () => this.#play(false));
    this.element = make("figure", { class: mirrored ? "tile mirrored" : "tile", dataset: { key, state: "new" } },
      this.video, avatar(id, name), this.sound,
      make("figcaption", {}, this.label, this.muted, this.detail));
  }

  show(stream) {
    if (this.video.srcObject === stream) return;
    this.video.srcObject = stream;
    if (stream) this.#play(this.video.muted);
  }

  /** A page that was not clicked yet may not make sound: then the picture goes first, and a button asks. */
  async #play(muted) {
    this.video.muted = muted;
    this.sound.hidden = true;
    try {
      await this.video.play();
    } catch (error) {
      if (error.name !== "NotAllowedError") return;
      this.video.muted = true;
      this.sound.hidden = false;
      this.video.play().catch(() => {});
    }
  }

  rename(name) {
    this.label.textContent = name;
  }

  media({ audio, video }) {
    this.muted.hidden = audio;
    this.element.classList.toggle("no-picture", !video);
  }

  state(state, detail = STATES[state] ?? "") {
    this.element.dataset.state = state;
    this.detail.textContent = detail;
  }
}

export class Tiles {
  #root;
  #tiles = new Map();

  constructor(root) {
    this.#root = root;
  }

  add({ key, id, name, mirrored = false }) {
    const tile = new Tile({ key, id, name, mirrored });
    this.#tiles.set(key, tile);
    this.#root.append(tile.element);
    this.#root.dataset.count = String(this.#tiles.size);
    return tile;
  }

  get(key) {
    return this.#tiles.get(key);
  }

  remove(key) {
    const tile = this.#tiles.get(key);
    if (!tile) return;
    tile.video.srcObject = null;
    tile.element.remove();
    this.#tiles.delete(key);
    this.#root.dataset.count = String(this.#tiles.size);
  }

  clear() {
    for (const key of [...this.#tiles.keys()]) this.remove(key);
  }
}
