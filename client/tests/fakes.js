/** A clock that stands still until told, and sockets that a test holds the other end of. */

import { SignalingClient } from "../signaling.js";

export const ROOM = "3f2c8a10-0000-4000-8000-000000000001";

export class Clock {
  #now = 1_000;
  #timers = new Map();
  #count = 0;

  now = () => this.#now;
  clearTimeout = (id) => this.#timers.delete(id);
  setTimeout = (callback, ms) => {
    this.#timers.set(++this.#count, { at: this.#now + ms, callback });
    return this.#count;
  };

  async advance(ms) {
    const end = this.#now + ms;
    for (;;) {
      await settled();
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.#now = due[1].at;
      due[1].callback();
    }
    this.#now = end;
    await settled();
  }
}

/** Lets every promise that can settle do so. */
export function settled() {
  return new Promise((resolve) => setImmediate(resolve));
}

export class FakeSocket {
  static all = [];
  static get last() {
    return FakeSocket.all.at(-1);
  }

  readyState = 0;
  bufferedAmount = 0;
  sent = [];
  closedWith = null;
  #listeners = {};

  constructor(url, protocols) {
    this.url = new URL(url);
    this.protocols = protocols;
    FakeSocket.all.push(this);
  }

  addEventListener(type, listener) {
    (this.#listeners[type] ??= []).push(listener);
  }

  #fire(type, event) {
    for (const listener of this.#listeners[type] ?? []) listener(event);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close(code, reason) {
    this.closedWith = { code, reason };
    this.readyState = 3;
  }

  // what the server does

  open() {
    this.readyState = 1;
    this.#fire("open", {});
  }

  deliver(packet) {
    this.#fire("message", { data: typeof packet === "string" ? packet : JSON.stringify(packet) });
  }

  welcome(more = {}) {
    this.open();
    this.deliver({
      type: "webrtc",
      data: { userId: "me", roomId: ROOM, connectionId: `c${FakeSocket.all.length}`, participants: [], ...more },
    });
  }

  signal(type, data, [account, connection], more = {}) {
    this.deliver({
      type: "webrtc.signal",
      data: {
        type, data, ...more,
        senderAccountId: account, senderConnectionId: connection, senderInfo: { id: account, name: account },
      },
    });
  }

  fail() {
    this.#fire("error", {});
  }

  end(code, reason = "") {
    this.readyState = 3;
    this.#fire("close", { code, reason });
  }
}

export function participant(account, ...connectionIds) {
  return { identity: account, name: account, accountId: account, account: { id: account, name: account }, connectionIds };
}

/** A JWT, as far as a client looks into one. */
export function jwt({ expiresInSeconds, livesSeconds = expiresInSeconds, mark = "" }) {
  const exp = Math.floor(Date.now() / 1000) + expiresInSeconds;
  const payload = Buffer.from(JSON.stringify({ exp, iat: exp - livesSeconds, mark })).toString("base64url");
  return `e30.${payload}.c2ln`;
}

export function answer(status, body = {}, headers = {}) {
  return new Response(JSON.stringify({ status, ...body }), { status, headers });
}

/** A client with everything of the outside in the test's hands; `events` lists what it told. */
export function setUp({ answers = [], token = "t1", ...options } = {}) {
  FakeSocket.all = [];
  const clock = new Clock();
  const probes = [];
  const events = [];
  const client = new SignalingClient({
    gateway: "https://gateway.test",
    roomId: ROOM,
    token,
    WebSocket: FakeSocket,
    random: () => 1,
    now: clock.now,
    setTimeout: clock.setTimeout,
    clearTimeout: clock.clearTimeout,
    fetch: async (url, init) => {
      probes.push({ url: new URL(url), ...init });
      const next = answers.shift();
      if (!next) throw new TypeError("failed to fetch");
      return next;
    },
    ...options,
  });
  for (const type of ["state", "welcome", "closed", "disconnected", "refused", "error", "user-joined", "user-left",
    "connection-joined", "connection-left", "token-refreshed", "refresh-failed", "draining"]) {
    client.on(type, (event) => events.push({ type, event }));
  }
  const told = (type) => events.filter((entry) => entry.type === type).map((entry) => entry.event);
  return { client, clock, probes, events, told };
}
