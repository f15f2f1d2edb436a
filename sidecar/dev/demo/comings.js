/** Who came and who left, each said once; one who is soon back after their connection broke did not leave. */

import { displayName } from "./people.js";

const BACK_WITHIN_MS = 15_000; // as a call keeps the pictures of those who are away

const WORDS = {
  "user-joined": "came in",
  "connection-joined": "came in with another device",
  "connection-left": "left with one device",
  "user-left": "left the room",
};

export class Comings {
  #events;
  #now;
  #told = new Set(); // connections whose going was told once: the room tells of it, and the call
  #gone = new Map(); // account → its connections that broke of late, `{line, at}`

  constructor(events, now = () => performance.now()) {
    this.#events = events;
    this.#now = now;
  }

  /** Somebody's connection came or went, as the signaling client tells it. */
  presence(type, { accountId, connectionId, info, afterReconnect }) {
    // Everyone has a new connection after a restart: that is no news about them.
    const news = !afterReconnect || type.startsWith("user-");
    const title = news ? `${displayName(info)} ${WORDS[type]}` : "";
    if (type.endsWith("-left")) this.#left(accountId, connectionId, title, { mayReturn: true });
    else this.#joined(accountId, displayName(info), title);
  }

  /** A device is out of the call, for the reason the call gives; `why` says it in words. */
  outOfCall({ accountId, connectionId, account }, reason, why) {
    this.#left(accountId, connectionId, `${displayName(account)} ${why}`, { mayReturn: reason !== "hung-up" });
  }

  #left(accountId, connectionId, title, { mayReturn }) {
    if (this.#told.delete(connectionId)) return;
    this.#told.add(connectionId);
    const line = title ? this.#events.add("plain", title) : null;
    if (mayReturn) this.#gone.set(accountId, [...this.#goneOfLate(accountId), { line, at: this.#now() }]);
  }

  #joined(accountId, name, title) {
    const gone = this.#goneOfLate(accountId);
    const back = gone.find(({ line }) => line) ?? gone[0];
    this.#gone.set(accountId, gone.filter((one) => one !== back));
    back?.line?.remove();
    if (back?.line) this.#events.add("good", `${name}'s signaling came back`);
    else if (!back && title) this.#events.add("plain", title);
  }

  #goneOfLate(accountId) {
    return (this.#gone.get(accountId) ?? []).filter(({ at }) => this.#now() - at < BACK_WITHIN_MS);
  }
}
