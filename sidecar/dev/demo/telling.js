/** Where the page says what happens: a list of events, a passing notice, and the state in the bar on top. */

import { make } from "./people.js";

const MOST_EVENTS = 100;
const NOTICE_MS = 9000;

export class EventList {
  #root;
  #empty;
  #badge;
  #unread = 0;

  constructor({ root, empty, badge }) {
    this.#root = root;
    this.#empty = empty;
    this.#badge = badge;
  }

  /** `tone` is `good`, `bad` or `plain`; the bad ones are counted until somebody looks. */
  add(tone, title, text = "") {
    const time = new Date().toLocaleTimeString([], { hour12: false });
    this.#root.prepend(make("li", { dataset: { tone } },
      make("p", { class: "event-title" }, title, make("time", {}, time)),
      ...(text ? [make("p", {}, text)] : [])));
    while (this.#root.children.length > MOST_EVENTS) this.#root.lastChild.remove();
    this.#empty.hidden = true;
    const seen = this.#root.offsetParent !== null;
    if (tone === "bad" && !seen) this.#count(this.#unread + 1);
  }

  read() {
    this.#count(0);
  }

  clear() {
    this.#root.replaceChildren();
    this.#empty.hidden = false;
    this.#count(0);
  }

  #count(unread) {
    this.#unread = unread;
    this.#badge.hidden = unread === 0;
    this.#badge.textContent = String(unread);
  }
}

export class Notice {
  #element;
  #timer;

  constructor(element) {
    this.#element = element;
  }

  show(text) {
    clearTimeout(this.#timer);
    this.#element.textContent = text;
    this.#element.hidden = !text;
    if (text) this.#timer = setTimeout(() => this.show(""), NOTICE_MS);
  }
}

export function showChip(element, kind, text) {
  element.dataset.kind = kind;
  element.textContent = text;
  element.hidden = !text;
}

export function inMs(ms) {
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}
