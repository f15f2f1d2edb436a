/** The packets as they pass, newest first, readable and filterable. */

import { make } from "./people.js";
import { clockTime } from "./telling.js";

const MOST_ROWS = 300;
const KINDS = {
  call: "Offers, answers",
  candidates: "ICE candidates",
  presence: "Presence",
  control: "Server",
  pings: "Pings",
};
const PINGS = new Set(["ping", "pong"]);
const CONTROL = new Set(["auth.refresh", "auth.refreshed", "webrtc", "error"]);

function kindOf(type) {
  if (PINGS.has(type)) return "pings";
  if (CONTROL.has(type)) return "control";
  if (type === "ice-candidate") return "candidates";
  if (/^(user|connection)-(joined|left)$/.test(type)) return "presence";
  return "call";
}

/** A packet as people read it: session descriptions with one line a line. */
function readable(packet) {
  const text = JSON.stringify(packet, null, 2);
  return text.replace(/"sdp": "((?:[^"\\]|\\.)*)"/g, (_, sdp) => {
    const lines = sdp.split("\\r\\n").filter(Boolean);
    return `"sdp":\n${lines.map((line) => `        ${line}`).join("\n")}\n`;
  });
}

export class Packets {
  #root;
  #count;
  #nameOf;
  #rows = [];
  #seen = 0;
  #held = false;
  #filter = "";
  #shown = new Set(["call", "candidates", "presence", "control"]); // pings come every two seconds

  constructor({ root, count, filter, kinds, hold, clear, nameOf }) {
    this.#root = root;
    this.#count = count;
    this.#nameOf = nameOf;
    filter.addEventListener("input", () => {
      this.#filter = filter.value.trim().toLowerCase();
      this.#sift();
    });
    for (const [kind, label] of Object.entries(KINDS)) kinds.append(this.#toggle(kind, label));
    hold.addEventListener("click", () => {
      this.#held = !this.#held;
      hold.setAttribute("aria-pressed", String(this.#held));
      hold.textContent = this.#held ? "Go on" : "Hold";
    });
    clear.addEventListener("click", () => this.clear());
    this.#tellCount();
  }

  add({ direction, packet, bytes, at }) {
    if (this.#held) return;
    this.#seen++;
    const row = this.#rowOf(direction, packet, bytes, at);
    this.#rows.unshift(row);
    this.#root.prepend(row.element);
    row.element.hidden = !this.#passes(row);
    if (this.#rows.length > MOST_ROWS) this.#rows.pop().element.remove();
    this.#tellCount();
  }

  clear() {
    this.#rows = [];
    this.#seen = 0;
    this.#root.replaceChildren();
    this.#tellCount();
  }

  #rowOf(direction, packet, bytes, at) {
    const signal = packet.type === "webrtc.signal" ? packet.data : packet;
    const type = signal.type ?? packet.type;
    const route = this.#routeOf(direction, signal, type);
    const summary = make("summary", {},
      make("span", { class: `arrow ${direction}`, title: direction === "in" ? "received" : "sent" }, direction === "in" ? "↓" : "↑"),
      make("span", { class: "packet-type" }, type),
      make("span", { class: "packet-route" }, route),
      make("span", { class: "packet-meta" }, `${bytes < 1000 ? `${bytes} B` : `${(bytes / 1000).toFixed(1)} kB`} · ${clockTime(at)}`));
    const details = make("details", {}, summary);
    // A description is long: it is written out only for those who open it.
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(make("pre", { tabIndex: 0 }, readable(packet)));
    });
    const text = `${type} ${route} ${JSON.stringify(packet)}`.toLowerCase();
    return { element: make("li", { dataset: { kind: kindOf(type), type } }, details), kind: kindOf(type), text };
  }

  #routeOf(direction, signal, type) {
    if (direction === "in") {
      return signal.senderConnectionId ? `from ${this.#nameOf(signal.senderConnectionId, signal.senderInfo)}` : "from the sidecar";
    }
    if (CONTROL.has(type) || PINGS.has(type)) return "to the sidecar";
    return signal.toConnection ? `to ${this.#nameOf(signal.toConnection)}` : "to everyone";
  }

  #toggle(kind, label) {
    const button = make("button", { type: "button", class: "toggle", "aria-pressed": String(this.#shown.has(kind)) }, label);
    button.addEventListener("click", () => {
      const on = !this.#shown.has(kind);
      if (on) this.#shown.add(kind);
      else this.#shown.delete(kind);
      button.setAttribute("aria-pressed", String(on));
      this.#sift();
    });
    return button;
  }

  #passes(row) {
    return this.#shown.has(row.kind) && row.text.includes(this.#filter);
  }

  #sift() {
    for (const row of this.#rows) row.element.hidden = !this.#passes(row);
    this.#tellCount();
  }

  #tellCount() {
    const shown = this.#rows.filter((row) => !row.element.hidden).length;
    const kept = this.#seen > this.#rows.length ? `, the last ${this.#rows.length} kept` : "";
    this.#count.textContent = this.#seen ? `${shown} shown of ${this.#seen}${kept}. Open one to read it.` : "Nothing passed yet.";
  }
}
