/** The first page: who, where, and what the sidecar will say to it. */

import { avatar, displayName, make } from "./people.js";

const LONGEST_SHOWN = 36;

export class Choice {
  #form;
  #world;

  constructor({ form, badLink, world, onJoin }) {
    this.#form = form;
    this.#world = world;
    const wanted = new URLSearchParams(location.search);
    form.querySelector("#people").append(...world.people.map((person) => this.#card("as", person.id, [
      avatar(person.id, displayName(person)),
      make("span", { class: "card-text" }, make("b", {}, displayName(person)), make("small", {}, `@${person.name}`)),
    ])));
    form.querySelector("#rooms").append(...world.rooms.map((room) => {
      const active = room.members.filter(({ state }) => state === "active").length;
      return this.#card("room", room.id, [
        make("span", { class: "card-text" }, make("b", {}, room.name), make("small", {}, `${active} ${active === 1 ? "member" : "members"}`)),
      ]);
    }));
    const unknown = [
      ...this.#select("as", wanted.get("as"), world.people, "person"),
      ...this.#select("room", wanted.get("room"), world.rooms, "room"),
    ];
    badLink.hidden = unknown.length === 0;
    badLink.textContent = `The link names ${unknown.join(" and ")} that ${world.sampleFile} does not know. Pick from what there is.`;
    form.addEventListener("change", () => this.#tellOutlook());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.complete) onJoin(this.value);
    });
    this.#tellOutlook();
  }

  get complete() {
    const { person, room } = this.value;
    return Boolean(person && room);
  }

  get value() {
    const data = new FormData(this.#form);
    return {
      person: this.#world.people.find(({ id }) => id === data.get("as")),
      room: this.#world.rooms.find(({ id }) => id === data.get("room")),
      ttlSeconds: Number(data.get("ttl")) || undefined,
      auth: data.get("auth"),
      drawn: data.get("drawn") === "on",
    };
  }

  #card(name, value, children) {
    const input = make("input", { type: "radio", name, value });
    return make("label", { class: "card" }, input, make("span", { class: "card-face" }, ...children));
  }

  /** Checks what the link wants, or the first there is; returns what it wants in vain. */
  #select(name, wanted, known, what) {
    const id = (wanted ?? known[0]?.id ?? "").toLowerCase();
    for (const input of this.#form.querySelectorAll(`input[name=${name}]`)) input.checked = input.value === id;
    return wanted === null || known.some((one) => one.id === id) ? [] : [`a ${what} (${wanted.slice(0, LONGEST_SHOWN) || "nothing"})`];
  }

  /** Says beforehand what to expect: the sample file tells who belongs where. The sidecar alone decides. */
  #tellOutlook() {
    const { person, room } = this.value;
    const outlook = this.#form.querySelector("#outlook");
    const button = this.#form.querySelector("#join");
    button.disabled = !person || !room;
    if (!person || !room) {
      outlook.textContent = person ? "Pick a room." : "Pick who you are.";
      delete outlook.dataset.allowed;
      return;
    }
    const name = displayName(person);
    const state = room.members.find(({ account }) => account === person.id)?.state;
    const says = {
      active: `${name} is a member of ${room.name}.`,
      suspended: `${name} is suspended in ${room.name}: the sidecar will refuse.`,
      "timed out": `${name} is timed out in ${room.name}: the sidecar will refuse, and say until when.`,
      left: `${name} has left ${room.name}: the sidecar will refuse.`,
    };
    outlook.textContent = says[state] ?? `${name} is not a member of ${room.name}: the sidecar will refuse.`;
    outlook.dataset.allowed = String(state === "active");
  }
}
