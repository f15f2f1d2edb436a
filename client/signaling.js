/**
 * Client of the signaling sidecar, for browsers and Node. One module, no dependencies.
 *
 * It keeps one WebSocket to one room open for as long as that makes sense: it comes back after losses, asks
 * for a new token where the old one is refused, and stops for good where coming back is pointless. The wire
 * format and the close codes are those of docs/protocol.md; docs/clients.md shows how to use it.
 */

const GUID = /^[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}$/i;
const PRESENCE = new Set(["user-joined", "user-left", "connection-joined", "connection-left"]);

const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 30_000;
const STABLE_AFTER_MS = 10_000; // a connection that lived this long starts the backoff anew
const CONNECT_DEADLINE_MS = 15_000; // until the first packet
const TOKEN_DEADLINE_MS = 30_000; // for the app's token callback
const PROBE_DEADLINE_MS = 10_000;
const PING_DEADLINE_MS = 10_000;
const REFRESH_DEADLINE_MS = 15_000;
const REFRESH_RETRY_MS = 10_000;
const REFRESH_MARGIN_MS = 60_000;
const DEFAULT_HEARTBEAT_MS = 20_000;
const MAX_UNSENT_BYTES = 1_048_576;
const MAX_TOKENS_REFUSED = 3; // in a row, before the client waits for the app
const MAX_TIMER_MS = 2_147_483_647;

/** Close codes after which coming back would only repeat the same end, and what an app is told. */
const STOP_REASONS = new Map([
  [1002, "protocol-error"],
  [1003, "protocol-error"],
  [1007, "protocol-error"],
  [1008, "protocol-error"],
  [1009, "message-too-big"],
  [4403, "not-a-member"],
  [4409, "replaced"],
]);

/** What a client does after a close code it did not ask for: `retry`, `token` (then retry) or `stop`. */
export function verdictOfClose(code) {
  if (code === 4401) return "token";
  return STOP_REASONS.has(code) ? "stop" : "retry";
}

/** An error with a `code` to decide on; `message` is for people. */
export class SignalingError extends Error {
  constructor(code, message, detail) {
    super(message);
    this.name = "SignalingError";
    this.code = code;
    this.detail = detail;
  }
}

/** Listeners by event name. One that throws is reported and does not keep the others from being called. */
export class Emitter {
  #listeners = new Map();

  /** Returns the function that takes the listener off again. */
  on(type, listener) {
    if (!this.#listeners.has(type)) this.#listeners.set(type, new Set());
    this.#listeners.get(type).add(listener);
    return () => this.off(type, listener);
  }

  once(type, listener) {
    const off = this.on(type, (event) => {
      off();
      listener(event);
    });
    return off;
  }

  off(type, listener) {
    this.#listeners.get(type)?.delete(listener);
  }

  emit(type, event) {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) {
      try {
        listener(event);
      } catch (error) {
        reportUncaught(error);
      }
    }
  }
}

export class SignalingClient extends Emitter {
  #endpoint;
  #auth;
  #tokenSource;
  #environment;

  #state = "idle";
  #run = 0; // counts attempts; what an older attempt still has to say is ignored
  #socket = null;
  #failures = 0;
  #openedAt = 0;
  #lastHeardAt = 0;
  #reconnectAfterMs = null;
  #mayHurry = false; // whether the wait under way may be cut short when the network is back
  #timedOutUntil = null;
  #tokenInUse = null;
  #refusedToken = null;
  #tokensRefused = 0;
  #closed = null;
  #timers = new Map();
  #pings = new Map();
  #pingCount = 0;
  #refresh = null;
  #waiters = new Set();
  #peers = new Map();
  #welcome = null;

  constructor({ url, gateway, roomId, prefix = "/sphere", token, auth = "subprotocol", ...environment }) {
    super();
    if (!["subprotocol", "query", "cookie"].includes(auth)) throw new TypeError(`unknown auth: ${auth}`);
    if (!token && auth !== "cookie") throw new TypeError("token: a string or a function is needed");
    this.#endpoint = endpointOf(url, gateway, roomId, prefix);
    this.#auth = auth;
    this.#tokenSource = token ?? null;
    this.#environment = {
      WebSocket: globalThis.WebSocket,
      fetch: globalThis.fetch?.bind(globalThis),
      now: () => performance.now(),
      setTimeout: (callback, ms) => setTimeout(callback, ms),
      clearTimeout: (timer) => clearTimeout(timer),
      random: Math.random,
      ...environment,
    };
    if (!this.#environment.WebSocket) throw new TypeError("WebSocket: this runtime has none, pass a class");
  }

  /** `idle`, `connecting`, `open`, `waiting` (to try again), `needs-token` or `closed`. */
  get state() {
    return this.#state;
  }

  /** The first packet of the current connection, or of the last one while there is none. */
  get welcome() {
    return this.#welcome;
  }

  get accountId() {
    return this.#welcome?.userId ?? null;
  }

  /** One's own connection id. It changes with every reconnect. */
  get connectionId() {
    return this.#welcome?.connectionId ?? null;
  }

  /** Who else is in the room: account id → peer. One's own account is here while other devices of it are. */
  get peers() {
    return this.#peers;
  }

  /** The peer that a connection id belongs to, if it is in the room. */
  peerOfConnection(connectionId) {
    for (const peer of this.#peers.values()) if (peer.connectionIds.has(connectionId)) return peer;
    return undefined;
  }

  /** Why the client stopped for good, once it has. */
  get closed() {
    return this.#closed;
  }

  /**
   * Starts, unless already started; after an end, or where a token was waited for, it starts anew. The promise is that of `whenConnected()`.
   * It may be ignored: everything it tells is told by events too.
   */
  connect() {
    if (["idle", "closed", "needs-token"].includes(this.#state)) {
      this.#closed = null;
      this.#failures = 0;
      this.#tokensRefused = 0;
      this.#refusedToken = null;
      this.#watchNetwork(true);
      this.#attempt();
    }
    const connected = this.whenConnected();
    connected.catch(() => {});
    return connected;
  }

  /** Resolves with the first packet once in the room; rejects when the client stopped for good. */
  whenConnected() {
    if (this.#state === "open") return Promise.resolve(this.#welcome);
    if (this.#state === "closed") return Promise.reject(stoppedError(this.#closed));
    return new Promise((resolve, reject) => this.#waiters.add({ resolve, reject }));
  }

  /** Leaves the room and stops. */
  close() {
    if (this.#state === "idle" || this.#state === "closed") return;
    this.#stop({ reason: "left", message: "You left.", code: 1000 });
  }

  /**
   * Sends a signal to everyone else in the room, or to one account (`to`), or to one connection (`toConnection`).
   *
   * Nothing is queued: while not connected it throws `NOT_CONNECTED` (a signal meant for a state of the room
   * that has passed does more harm than a caller who knows), and `BUFFER_FULL` while 1 MiB is still unsent.
   * Returning means handed to an open socket; what was on its way when a connection broke can be lost.
   */
  send(type, data = {}, { to, toConnection } = {}) {
    const packet = { type, data };
    if (to != null) packet.to = to;
    if (toConnection != null) packet.toConnection = toConnection;
    this.#write(packet);
  }

  /** The round trip to the sidecar in milliseconds. Rejects with `NOT_CONNECTED` or `PING_TIMEOUT`. */
  async ping() {
    const id = ++this.#pingCount;
    const sentAt = this.#environment.now();
    this.#write({ type: "ping", data: { id } });
    return new Promise((resolve, reject) => {
      const timer = this.#environment.setTimeout(() => {
        this.#pings.delete(id);
        reject(new SignalingError("PING_TIMEOUT", "No answer to a ping in time"));
      }, PING_DEADLINE_MS);
      this.#pings.set(id, { sentAt, resolve, reject, timer });
    });
  }

  /** A new token (or source of tokens), for `needs-token`, or to extend an open connection. */
  setToken(token) {
    this.#tokenSource = token;
    this.#refusedToken = null;
    this.#tokensRefused = 0;
    if (this.#state === "needs-token") this.#attempt();
    else if (this.#state === "open") this.#refreshQuietly();
  }

  /** Gets a token and hands it to the open connection. Resolves with the new expiry, or null if it has none. */
  async refreshToken() {
    return this.#handOver(await this.#getToken({ renew: true }));
  }

  async #handOver(token) {
    if (!token) throw new SignalingError("NO_TOKEN", "The token source gave no token");
    this.#refresh?.reject(new SignalingError("SUPERSEDED", "A newer refresh took its place"));
    this.#write({ type: "auth.refresh", data: { token } });
    this.#tokenInUse = token;
    return new Promise((resolve, reject) => {
      const settle = (how) => (value) => {
        this.#clear("refresh-deadline");
        this.#refresh = null;
        how(value);
      };
      this.#refresh = { token, resolve: settle(resolve), reject: settle(reject) };
      this.#after("refresh-deadline", REFRESH_DEADLINE_MS, () =>
        this.#refresh?.reject(new SignalingError("REFRESH_TIMEOUT", "No answer to auth.refresh in time")),
      );
    });
  }

  /**
   * Asks, without connecting, what a handshake would be answered: a browser cannot read that from a WebSocket.
   * Never rejects: a sidecar that cannot be reached is `{verdict: "later", status: 0}`.
   */
  async probe() {
    let token = null;
    try {
      token = await this.#getToken({ renew: false });
    } catch (error) {
      return { verdict: "later", status: 0, code: "TOKEN_SOURCE_FAILED", message: String(error?.message ?? error) };
    }
    return this.#probeWith(token);
  }

  // --- one attempt, from token to first packet

  async #attempt() {
    const run = ++this.#run;
    this.#clear("retry");
    this.#setState("connecting");
    let token;
    try {
      token = await this.#getToken({ renew: this.#refusedToken !== null });
    } catch (error) {
      if (run !== this.#run) return;
      const message = `No token could be had: ${error?.message ?? error}`;
      this.#retry({ code: "TOKEN_SOURCE_FAILED", message });
      return;
    }
    if (run !== this.#run) return;
    if (this.#auth !== "cookie" && (!token || token === this.#refusedToken)) {
      this.#needToken({ code: "NO_NEW_TOKEN", message: "The token was refused, and there is no other one." });
      return;
    }
    this.#openSocket(run, token);
  }

  #openSocket(run, token) {
    const url = new URL(this.#endpoint);
    if (this.#auth === "query") url.searchParams.set("tk", token);
    let socket;
    try {
      socket =
        this.#auth === "subprotocol"
          ? new this.#environment.WebSocket(url.href, ["bearer", token])
          : new this.#environment.WebSocket(url.href);
    } catch (error) {
      // A token with characters no header may carry, or a page that may not open this URL: no retry helps.
      this.#stop({ reason: "refused", message: `The browser refused to connect: ${error.message}` });
      return;
    }
    this.#socket = socket;
    let opened = false;
    socket.addEventListener("open", () => {
      opened = true;
    });
    socket.addEventListener("message", (event) => {
      if (run === this.#run) this.#receive(event.data, token);
    });
    socket.addEventListener("error", () => {
      // Some runtimes leave it at this where the handshake fails; browsers send a close event after it.
      if (run === this.#run && !opened) this.#lost({ code: 1006, reason: "", opened, token });
    });
    socket.addEventListener("close", (event) => {
      if (run === this.#run) this.#lost({ code: event.code, reason: event.reason, opened, token });
    });
    this.#after("connect", CONNECT_DEADLINE_MS, () => this.#cutOff("no first packet in time", token));
  }

  /** Gives a connection up from this side: a dead network never tells, so its close event is not waited for. */
  #cutOff(reason, token) {
    const socket = this.#socket;
    this.#run++;
    socket?.close();
    this.#lost({ code: 4408, reason, opened: true, token });
  }

  // --- packets

  #write(packet) {
    const socket = this.#socket;
    if (this.#state !== "open" || socket.readyState !== 1) {
      throw new SignalingError("NOT_CONNECTED", "Not connected to the room");
    }
    if (socket.bufferedAmount > MAX_UNSENT_BYTES) {
      throw new SignalingError("BUFFER_FULL", "The network does not take more for now");
    }
    const text = JSON.stringify(packet);
    socket.send(text);
    const shown = packet.type === "auth.refresh" ? { type: packet.type, data: { token: "…" } } : packet;
    this.emit("packet", { direction: "out", packet: shown, bytes: text.length, at: Date.now() });
  }

  #receive(text, token) {
    this.#lastHeardAt = this.#environment.now();
    let packet;
    try {
      packet = JSON.parse(text);
    } catch {
      return; // the sidecar sends JSON only: something in between speaks up
    }
    if (packet === null || typeof packet !== "object") return;
    this.emit("packet", { direction: "in", packet, bytes: text.length, at: Date.now() });
    const data = packet.data;
    switch (packet.type) {
      case "webrtc":
        if (data?.connectionId) this.#enter(data, token);
        else if (Number.isFinite(data?.reconnectAfterMs)) {
          this.#reconnectAfterMs = data.reconnectAfterMs;
          this.emit("draining", { reconnectAfterMs: data.reconnectAfterMs, message: data.message ?? "" });
        }
        return;
      case "webrtc.signal":
        if (data && PRESENCE.has(data.type)) this.#presence(data);
        else if (data) this.#signal(data);
        return;
      case "pong":
        this.#pong(data);
        return;
      case "auth.refreshed":
        this.#refreshed(data);
        return;
      case "error":
        this.#refusedPacket(packet);
        return;
      default:
        return; // newer sidecars may say more
    }
  }

  #enter(welcome, token) {
    this.#tokenInUse = token;
    this.#clear("connect");
    const before = this.#peers;
    const returning = this.#welcome !== null;
    this.#welcome = welcome;
    this.#openedAt = this.#environment.now();
    this.#refusedToken = null;
    this.#peers = new Map();
    for (const participant of welcome.participants ?? []) {
      for (const connectionId of participant.connectionIds ?? []) {
        this.#add(participant.accountId ?? participant.identity, connectionId, participant.account, participant.joinedAt);
      }
    }
    this.#setState("open");
    this.#watchHeartbeat();
    this.#scheduleRefresh(token);
    this.emit("welcome", welcome);
    if (returning) this.#tellWhatChanged(before);
    this.emit("peers", this.#peers);
    for (const waiter of this.#waiters) waiter.resolve(welcome);
    this.#waiters.clear();
  }

  /** After a reconnect nobody tells who came and went in between: the difference of two lists does. */
  #tellWhatChanged(before) {
    const tell = (type, peer, connectionId) =>
      this.emit(type, { accountId: peer.accountId, connectionId, info: peer.info, afterReconnect: true });
    for (const [accountId, peer] of before) {
      const now = this.#peers.get(accountId);
      const gone = [...peer.connectionIds].filter((id) => !now?.connectionIds.has(id));
      gone.forEach((id, i) => tell(now || i < gone.length - 1 ? "connection-left" : "user-left", peer, id));
    }
    for (const [accountId, peer] of this.#peers) {
      const known = before.get(accountId);
      const fresh = [...peer.connectionIds].filter((id) => !known?.connectionIds.has(id));
      fresh.forEach((id, i) => tell(known || i > 0 ? "connection-joined" : "user-joined", peer, id));
    }
  }

  #add(accountId, connectionId, info, joinedAt = null) {
    if (!accountId || !connectionId || connectionId === this.connectionId) return;
    const peer = this.#peers.get(accountId) ?? { accountId, info: null, joinedAt, connectionIds: new Set() };
    if (info) peer.info = info;
    peer.connectionIds.add(connectionId);
    this.#peers.set(accountId, peer);
  }

  #presence({ type, senderAccountId: accountId, senderConnectionId: connectionId, senderInfo: info }) {
    if (type.endsWith("-joined")) {
      this.#add(accountId, connectionId, info);
    } else {
      const peer = this.#peers.get(accountId);
      peer?.connectionIds.delete(connectionId);
      if (type === "user-left" || peer?.connectionIds.size === 0) this.#peers.delete(accountId);
    }
    this.emit(type, { accountId, connectionId, info, afterReconnect: false });
    this.emit("peers", this.#peers);
  }

  #signal(signal) {
    this.emit("signal", signal);
    this.emit(`signal:${signal.type}`, signal);
  }

  #pong(data) {
    const ping = this.#pings.get(data?.id);
    if (!ping) return;
    this.#pings.delete(data.id);
    this.#environment.clearTimeout(ping.timer);
    ping.resolve(this.#environment.now() - ping.sentAt);
  }

  #refusedPacket(packet) {
    const { code = "UNKNOWN", detail } = packet.data ?? {};
    const error = new SignalingError(code, packet.errorMessage ?? code, detail);
    if (code === "MEMBER_TIMED_OUT") this.#timedOutUntil = detail ?? null;
    if (code.startsWith("TOKEN_")) this.#refresh?.reject(error);
    this.emit("error", error);
  }

  // --- heartbeat: browsers do not show a page the server's pings, so silence is asked about

  #watchHeartbeat() {
    const seconds = this.#welcome.heartbeatSeconds;
    const intervalMs = seconds > 0 ? seconds * 1000 : DEFAULT_HEARTBEAT_MS;
    this.#lastHeardAt = this.#environment.now();
    const look = () => {
      const silentMs = this.#environment.now() - this.#lastHeardAt;
      if (silentMs < intervalMs) this.#after("heartbeat", intervalMs - silentMs, look);
      else this.#askIfAlive(look);
    };
    this.#after("heartbeat", intervalMs, look);
  }

  #askIfAlive(alive) {
    const askedAt = this.#environment.now();
    this.ping().catch(() => {}); // any packet is an answer, so lastHeardAt decides
    this.#after("heartbeat", PING_DEADLINE_MS, () => {
      if (this.#lastHeardAt > askedAt) alive();
      else this.#cutOff("no sign of life from the server", null);
    });
  }

  // --- tokens

  async #getToken(need) {
    if (typeof this.#tokenSource !== "function") return this.#tokenSource;
    let timer;
    const deadline = new Promise((_, reject) => {
      timer = this.#environment.setTimeout(
        () => reject(new SignalingError("TOKEN_TIMEOUT", "the token callback took too long")),
        TOKEN_DEADLINE_MS,
      );
    });
    try {
      return await Promise.race([this.#tokenSource(need), deadline]);
    } finally {
      this.#environment.clearTimeout(timer);
    }
  }

  #scheduleRefresh(token) {
    if (typeof this.#tokenSource !== "function") return;
    const lives = token && lifeOfToken(token);
    if (lives) this.#refreshIn(lives.remainingMs, lives.wholeMs);
  }

  #refreshIn(remainingMs, wholeMs) {
    const marginMs = Math.min(REFRESH_MARGIN_MS, wholeMs * 0.2);
    this.#after("refresh", Math.max(remainingMs - marginMs, 1000), () => this.#refreshQuietly());
  }

  async #refreshQuietly() {
    const run = this.#run;
    try {
      const token = await this.#getToken({ renew: true });
      if (run !== this.#run) return;
      if (token !== this.#tokenInUse) await this.#handOver(token);
      else this.#refreshSoon(); // a source that keeps its tokens to the end will have another one in time
    } catch (error) {
      if (run !== this.#run || this.#state !== "open" || error.code === "SUPERSEDED") return;
      this.#refreshSoon();
      this.emit("refresh-failed", error);
    }
  }

  #refreshSoon() {
    if (typeof this.#tokenSource !== "function") return;
    this.#after("refresh", REFRESH_RETRY_MS, () => this.#refreshQuietly());
  }

  #refreshed(data) {
    const token = this.#refresh?.token;
    const expiresAt = data?.expiresAt ?? null;
    this.#refresh?.resolve(expiresAt);
    this.emit("token-refreshed", { expiresAt });
    this.#scheduleRefresh(token);
  }

  // --- losses

  async #lost({ code, reason, opened, token }) {
    const run = ++this.#run;
    const livedMs = this.#state === "open" ? this.#environment.now() - this.#openedAt : 0;
    const asked = this.#reconnectAfterMs;
    this.#dropConnection();
    this.emit("disconnected", { code, reason, opened });
    if (livedMs >= STABLE_AFTER_MS) this.#failures = this.#tokensRefused = 0;
    if (!opened) {
      this.#setState("connecting");
      const answer = await this.#probeWith(token);
      if (run === this.#run) this.#obey(answer, token);
      return;
    }
    const cause = { code: String(code), message: reason || `The connection ended (${code}).` };
    const verdict = verdictOfClose(code);
    if (verdict === "stop") this.#stop(this.#endAfter(code, reason));
    else if (verdict === "token") this.#newToken(cause, token);
    else if (asked !== null) this.#waitFor(asked, cause);
    else this.#retry(cause);
  }

  #endAfter(code, reason) {
    const until = code === 4403 ? this.#timedOutUntil : null;
    const end = { reason: until ? "timed-out" : STOP_REASONS.get(code), code, message: reason };
    return until ? { ...end, until } : end;
  }

  /** Does what an answer to the probe says. */
  #obey(answer, token) {
    if (answer.verdict !== "ready") this.emit("refused", answer);
    const cause = answer.verdict === "ready" ? NOT_OPENED : { code: answer.code, message: answer.message };
    if (answer.verdict === "stop") {
      const reason = REFUSALS.get(answer.code) ?? "refused";
      this.#stop({ reason, code: answer.code, message: answer.message, status: answer.status, until: answer.until });
    } else if (answer.verdict === "token") this.#newToken(cause, token);
    else if (answer.retryAfterMs != null) {
      // Everyone was told the same second: come a little later than that, each at another moment.
      this.#waitFor(answer.retryAfterMs + this.#environment.random() * 1000, cause);
    } else this.#retry(cause);
  }

  #newToken(cause, token) {
    this.#refusedToken = token ?? this.#refusedToken;
    this.#tokensRefused++;
    const another = typeof this.#tokenSource === "function" || this.#auth === "cookie";
    if (!another || this.#tokensRefused >= MAX_TOKENS_REFUSED) this.#needToken(cause);
    else if (this.#tokensRefused === 1) this.#attempt();
    else this.#retry(cause);
  }

  #needToken(cause) {
    this.#setState("needs-token", { cause });
  }

  /** Exponential backoff with full jitter, so that those cut off together do not come back together. */
  #retry(cause) {
    const ceilingMs = Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** this.#failures);
    this.#waitFor(this.#environment.random() * ceilingMs, cause);
    this.#mayHurry = true;
  }

  #waitFor(delayMs, cause) {
    this.#failures++;
    this.#mayHurry = false;
    this.#setState("waiting", { retryInMs: Math.round(delayMs), cause });
    this.#after("retry", delayMs, () => this.#attempt());
  }

  #stop(closed) {
    this.#run++;
    const socket = this.#socket;
    this.#dropConnection();
    this.#watchNetwork(false);
    try {
      socket?.close(1000, "left");
    } catch {
      // never opened: there is nothing to say goodbye to
    }
    this.#closed = closed;
    this.#peers = new Map();
    this.#setState("closed");
    this.emit("closed", closed);
    this.emit("peers", this.#peers);
    for (const waiter of this.#waiters) waiter.reject(stoppedError(closed));
    this.#waiters.clear();
    this.#welcome = null;
    this.#timedOutUntil = null;
  }

  #dropConnection() {
    this.#socket = null;
    this.#reconnectAfterMs = null;
    for (const name of [...this.#timers.keys()]) this.#clear(name);
    const error = new SignalingError("NOT_CONNECTED", "The connection was lost");
    this.#refresh?.reject(error);
    for (const ping of this.#pings.values()) {
      this.#environment.clearTimeout(ping.timer);
      ping.reject(error);
    }
    this.#pings.clear();
  }

  // --- the probe

  async #probeWith(token) {
    const url = new URL(this.#endpoint);
    url.protocol = url.protocol.replace("ws", "http");
    const headers = this.#auth !== "cookie" && token ? { Authorization: `Bearer ${token}` } : {};
    const credentials = this.#auth === "cookie" ? "include" : "omit";
    const abort = new AbortController();
    const timer = this.#environment.setTimeout(() => abort.abort(), PROBE_DEADLINE_MS);
    try {
      const response = await this.#environment.fetch(url.href, {
        headers, credentials, cache: "no-store", signal: abort.signal,
      });
      return readAnswer(response, await response.json().catch(() => ({})));
    } catch {
      return { verdict: "later", status: 0, code: "UNREACHABLE", message: "The server cannot be reached." };
    } finally {
      this.#environment.clearTimeout(timer);
    }
  }

  // --- state, timers, network

  #setState(state, more = {}) {
    const previous = this.#state;
    this.#state = state;
    this.emit("state", { state, previous, ...more });
  }

  #after(name, delayMs, callback) {
    this.#clear(name);
    const fire = () => {
      this.#timers.delete(name);
      callback();
    };
    this.#timers.set(name, this.#environment.setTimeout(fire, Math.min(delayMs, MAX_TIMER_MS)));
  }

  #clear(name) {
    if (!this.#timers.has(name)) return;
    this.#environment.clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  #networkIsBack = () => {
    if (this.#state === "waiting" && this.#mayHurry) this.#attempt();
  };

  #networkIsGone = () => {
    if (this.#state === "open") this.#askIfAlive(() => this.#watchHeartbeat());
  };

  #watchNetwork(on) {
    if (!globalThis.addEventListener || !globalThis.removeEventListener) return;
    const change = on ? globalThis.addEventListener : globalThis.removeEventListener;
    change.call(globalThis, "online", this.#networkIsBack);
    change.call(globalThis, "offline", this.#networkIsGone);
  }
}

/** Codes of refused handshakes that end it, and what an app is told. */
const REFUSALS = new Map([
  ["NOT_A_MEMBER", "not-a-member"],
  ["MEMBER_TIMED_OUT", "timed-out"],
  ["ORIGIN_NOT_ALLOWED", "origin-not-allowed"],
  ["NOT_FOUND", "no-such-room"],
]);

/** Why it waits where the probe was told that it would be let in: a plain GET is not asked about who is there already. */
const NOT_OPENED = {
  code: "CONNECT_FAILED",
  message: "You would be let in, but the WebSocket did not open: the room may be full, your account may have too many "
    + "connections, or something on the way blocks WebSockets.",
};

function readAnswer(response, body) {
  const answer = {
    verdict: "later",
    status: response.status,
    code: body.code ?? `HTTP_${response.status}`,
    message: body.message ?? `The server answered ${response.status}.`,
  };
  if (body.detail != null) answer.detail = body.detail;
  if (body.traceId != null) answer.traceId = body.traceId;
  if (answer.code === "MEMBER_TIMED_OUT" && body.detail) answer.until = body.detail;
  const seconds = Number.parseFloat(response.headers?.get("Retry-After") ?? "");
  if (seconds >= 0) answer.retryAfterMs = seconds * 1000;
  answer.verdict = verdictOfAnswer(answer);
  return answer;
}

function verdictOfAnswer({ status, code }) {
  if (code === "WEBSOCKET_EXPECTED") return "ready";
  if (status === 401) return "token";
  // These pass, whoever on the way says them.
  if (status >= 400 && status < 500 && ![408, 409, 425, 426, 429].includes(status)) return "stop";
  return "later";
}

function endpointOf(url, gateway, roomId, prefix) {
  let endpoint;
  if (url) {
    endpoint = new URL(url, globalThis.location?.href);
  } else {
    if (!GUID.test(roomId ?? "")) throw new TypeError(`roomId: a GUID is needed, not ${roomId}`);
    const base = gateway || globalThis.location?.origin;
    if (!base) throw new TypeError("gateway: an origin such as https://api.example.org is needed");
    endpoint = new URL(`${String(base).replace(/\/+$/, "")}${prefix}/chat/realtime/${roomId}`);
  }
  endpoint.protocol = endpoint.protocol.replace("http", "ws");
  endpoint.searchParams.set("dialect", "guide"); // whatever the deployment's default is
  return endpoint.href;
}

/** How long a JWT still lives and lives in all, in milliseconds; null where it does not tell. */
function lifeOfToken(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const { exp, iat } = JSON.parse(atob(payload));
    if (!Number.isFinite(exp)) return null;
    const leftMs = exp * 1000 - Date.now();
    const wholeMs = Number.isFinite(iat) ? (exp - iat) * 1000 : leftMs;
    // A clock that is behind would refresh too late: a token never lives longer than its whole life.
    return { remainingMs: Math.min(leftMs, wholeMs), wholeMs };
  } catch {
    return null; // not a JWT we can read: the close code will tell
  }
}

function stoppedError(closed) {
  const error = new SignalingError("CLOSED", closed.message || closed.reason);
  error.closed = closed;
  return error;
}

function reportUncaught(error) {
  if (globalThis.reportError) globalThis.reportError(error);
  else queueMicrotask(() => { throw error; });
}
