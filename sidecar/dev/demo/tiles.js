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
  #own;
  #onSilenced;

  constructor({ key, id, name, own, mirrored, onSilenced }) {
    this.#own = own;
    this.#onSilenced = onSilenced;
    this.video = make("video", { autoplay: true, playsInline: true, muted: own });
    this.video.setAttribute("aria-label", `Picture of ${name}`);
    this.label = make("span", { class: "tile-name" }, name);
    this.detail = make("span", { class: "tile-detail" });
    this.muted = make("span", { class: "tile-muted", hidden: true, title: "Microphone off" });
    this.muted.append(icon(MIC_OFF), make("span", { class: "unseen" }, "microphone off"));
    this.element = make("figure", { class: mirrored ? "tile mirrored" : "tile", dataset: { key, state: "new" } },
      this.video, avatar(id, name),
      make("figcaption", {}, this.label, this.muted, this.detail));
  }

  show(stream) {
    if (this.video.srcObject === stream) return;
    this.video.srcObject = stream;
    if (stream) this.play();
  }

  /** A page that was not clicked yet may not make sound: then the picture goes first. */
  async play() {
    this.video.muted = this.#own;
    try {
      await this.video.play();
    } catch (error) {
      if (error.name !== "NotAllowedError") return;
      this.video.muted = true;
      this.#onSilenced();
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
  #sound;
  #tiles = new Map();

  /** `sound` is the button that shows while the browser keeps the page silent. */
  constructor({ root, sound }) {
    this.#root = root;
    this.#sound = sound;
    // Any click will do, not only one on the button.
    for (const type of ["click", "keydown"]) addEventListener(type, () => this.#unsilence());
  }

  #unsilence() {
    if (this.#sound.hidden) return;
    this.#sound.hidden = true;
    for (const tile of this.#tiles.values()) tile.play();
  }

  add({ key, id, name, own = false, mirrored = false }) {
    const onSilenced = () => { this.#sound.hidden = false; };
    const tile = new Tile({ key, id, name, own, mirrored, onSilenced });
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
    this.#sound.hidden = true;
  }
}
