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

  /** `tone` is `good`, `bad` or `plain`; the bad ones are counted until somebody looks. Returns the line. */
  add(tone, title, text = "") {
    const line = make("li", { dataset: { tone } },
      make("p", { class: "event-title" }, title, make("time", {}, clockTime())),
      ...(text ? [make("p", {}, text)] : []));
    this.#root.prepend(line);
    while (this.#root.children.length > MOST_EVENTS) this.#root.lastChild.remove();
    this.#empty.hidden = true;
    const seen = this.#root.offsetParent !== null;
    if (tone === "bad" && !seen) this.#count(this.#unread + 1);
    return line;
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

/** The state in the bar on top; with `untilMs` the seconds left are counted down beside it. */
export class Chip {
  #element;
  #timer;

  constructor(element) {
    this.#element = element;
  }

  show(kind, text, untilMs = null) {
    clearInterval(this.#timer);
    this.#element.dataset.kind = kind;
    this.#element.textContent = text;
    this.#element.hidden = !text;
    if (untilMs !== null) this.#countDown(untilMs);
  }

  #countDown(leftMs) {
    const endsAt = performance.now() + leftMs;
    const left = make("span", { "aria-hidden": "true" }); // a number that is read out every second is a nuisance
    const tick = () => { left.textContent = ` in ${Math.max(1, Math.ceil((endsAt - performance.now()) / 1000))} s`; };
    tick();
    this.#element.append(left);
    this.#timer = setInterval(tick, 1000);
  }
}

export function inMs(ms) {
  return ms < 1 ? "< 1 ms" : `${Math.round(ms)} ms`;
}

export function clockTime(at = Date.now()) {
  return new Date(at).toLocaleTimeString([], { hourCycle: "h23" });
}
