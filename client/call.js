/**
 * A call in a room: one RTCPeerConnection to every other connection that takes part, over a SignalingClient.
 *
 * Negotiation is the "perfect negotiation" of the WebRTC specification (1.0, section 10.7): both sides may offer
 * at any time, and the polite one gives way. Media is not tied to signaling: a connection id changes with every
 * reconnect, so everyone goes by the id they entered the call with (`session`), tells it in every signal, and
 * says `hello` after each reconnect. A call lives on while the sidecar restarts.
 *
 * Signals, all but `hello` and `media` directed to one connection:
 *   hello {session, media, reply?}   here I am (again), under this connection id
 *   offer {session, link, offer, media}   answer {session, link, answer, media}   ice-candidate {session, candidate}
 *   media {session, media}   bye {session}
 * `link` names the sender's RTCPeerConnection: another one than before means that it had to start over.
 * A peer that knows none of this but offer, answer and ice-candidate can call us: its session is its connection id.
 */

import { Emitter } from "./signaling.js";

const NEGOTIATION_DEADLINE_MS = 12_000; // then it is tried again: a signal may have been lost on the way
const MAX_NEGOTIATIONS = 5; // in a row without reaching "connected"
const RESTART_AFTER_MS = 3_000; // of "disconnected", which often mends itself
const OVER_MS = 3_000; // after the other side closed its peer connection, for its word on what is next
const ABSENCE_MS = 15_000; // for someone who left the room to come back before media is cut

/** One other device in the call. `account` is who it belongs to, as the sidecar vouched. */
class Remote {
  #call;
  #pc;
  #polite;
  #makingOffer = false;
  #ignoringOffer = false;
  #settingAnswer = false;
  #link; // names #pc, for the other side
  #theirLink = null; // names theirs, once a description of it was taken
  #unsent = false; // something could not be sent: negotiate again when the way is free
  #attempts = 0;
  #timers = new Map();
  #watchedTransport = null;
  #work = Promise.resolve();
  #environment;

  constructor({ call, session, connectionId, account, polite, initiating, environment }) {
    this.session = session;
    this.key = keyOf(account.id, session);
    this.connectionId = connectionId;
    this.account = account;
    this.streams = new Set();
    this.media = { audio: true, video: true };
    this.state = "new";
    this.#call = call;
    this.#polite = polite;
    this.#environment = environment;
    this.#open(initiating);
  }

  /** The connection under it, for `getStats()` and data channels. Another one after the other side started over. */
  get peerConnection() {
    return this.#pc;
  }

  get accountId() {
    return this.account.id;
  }

  /** Round trip of the media path in milliseconds, or null while there is none. */
  async roundTripMs() {
    const stats = await this.#pc.getStats();
    const reports = [...stats.values()];
    const selected = reports.find((report) => report.type === "transport")?.selectedCandidatePairId;
    const pair = stats.get(selected) ?? reports.find(({ type, selected }) => type === "candidate-pair" && selected);
    return pair?.currentRoundTripTime === undefined ? null : pair.currentRoundTripTime * 1000;
  }

  #open(initiating) {
    const pc = new this.#environment.RTCPeerConnection(this.#call.configuration);
    this.#pc = pc;
    this.#link = Math.random().toString(36).slice(2);
    this.#theirLink = null;
    this.#makingOffer = this.#settingAnswer = false;
    pc.addEventListener("negotiationneeded", () => this.#offer());
    pc.addEventListener("icecandidate", ({ candidate }) => {
      if (candidate) this.#send("ice-candidate", { candidate: candidate.toJSON?.() ?? candidate });
    });
    pc.addEventListener("track", ({ streams }) => streams.forEach((stream) => this.#addStream(stream)));
    pc.addEventListener("connectionstatechange", () => {
      if (pc === this.#pc) this.#stateChanged();
    });
    this.useStream(this.#call.stream);
    if (initiating && !this.#call.stream) {
      // Nothing to send: ask for what the other side has. One who answers is asked by the offer.
      pc.addTransceiver("audio", { direction: "recvonly" });
      pc.addTransceiver("video", { direction: "recvonly" });
    }
    this.#watchNegotiation();
  }

  /** @internal Sends these tracks instead of the ones before; where a kind stays, nothing is renegotiated. */
  useStream(stream) {
    const tracks = stream?.getTracks() ?? [];
    const senders = this.#pc.getSenders().filter((sender) => sender.track);
    for (const sender of senders) {
      const next = tracks.find((track) => track.kind === sender.track.kind);
      if (!next) this.#pc.removeTrack(sender);
      else if (next !== sender.track) sender.replaceTrack(next).catch(() => this.restart());
    }
    const kinds = new Set(senders.map((sender) => sender.track.kind));
    for (const track of tracks) if (!kinds.has(track.kind)) this.#pc.addTrack(track, stream);
  }

  /** @internal One after the other, in the order they came. */
  receive(signal) {
    this.#work = this.#work
      .then(() => this.#handle(signal))
      .catch((error) => {
        if (this.state !== "closed") this.#call.emit("error", error);
      });
  }

  async #handle({ type, data }) {
    if (this.state === "closed") return;
    if (data.media) this.#setMedia(data.media);
    if (type === "offer") await this.#takeOffer(data);
    else if (type === "answer") await this.#takeAnswer(data);
    else if (type === "ice-candidate") await this.#takeCandidate(data);
  }

  async #offer() {
    const pc = this.#pc;
    try {
      this.#makingOffer = true;
      await pc.setLocalDescription();
      if (pc === this.#pc && pc.signalingState === "have-local-offer") this.#sendOffer();
    } catch (error) {
      if (pc.signalingState !== "closed") this.#call.emit("error", error);
    } finally {
      if (pc === this.#pc) this.#makingOffer = false;
    }
  }

  #sendOffer() {
    this.#send("offer", { link: this.#link, offer: this.#pc.localDescription, media: this.#call.media });
  }

  async #takeOffer({ offer, link = "" }) {
    if (this.#theirLink !== null && link !== this.#theirLink) this.#startOver({ initiating: false });
    const ready = !this.#makingOffer && (this.#pc.signalingState === "stable" || this.#settingAnswer);
    this.#ignoringOffer = !ready && !this.#polite;
    if (this.#ignoringOffer) return;
    // Chromium may never gather candidates after the first offer of all is rolled back: a new connection costs less.
    if (!ready && this.#theirLink === null) this.#startOver({ initiating: false });
    await this.#pc.setRemoteDescription({ type: "offer", sdp: offer.sdp }); // takes one's own offer back where they crossed
    this.#theirLink = link;
    await this.#pc.setLocalDescription();
    this.#send("answer", { link: this.#link, answer: this.#pc.localDescription, media: this.#call.media });
  }

  async #takeAnswer({ answer, link = "" }) {
    if (this.#pc.signalingState !== "have-local-offer") return; // to an offer that was taken back
    if (this.#theirLink !== null && link !== this.#theirLink) {
      this.#startOver({ initiating: true }); // offers by itself
      return;
    }
    try {
      this.#settingAnswer = true;
      await this.#pc.setRemoteDescription({ type: "answer", sdp: answer.sdp });
      this.#theirLink = link;
    } finally {
      this.#settingAnswer = false;
    }
  }

  async #takeCandidate({ candidate }) {
    try {
      await this.#pc.addIceCandidate(candidate);
    } catch (error) {
      // Candidates of an offer that was not taken, or of an earlier peer connection, are nobody's loss.
      if (!this.#ignoringOffer && this.#pc.remoteDescription) throw error;
    }
  }

  /** A new peer connection in place of one that cannot be continued; `link` tells the other side. */
  #startOver({ initiating }) {
    this.#clear("over");
    this.#clear("restart");
    this.#closePeerConnection();
    this.#open(initiating);
    this.state = "new";
    this.#call.emit("state", { remote: this, state: "new" });
  }

  /** Finds a new path between the two: after a failure, or when the network changed. */
  restart() {
    if (this.state === "closed") return;
    this.#watchNegotiation();
    if (this.#pc.signalingState === "have-local-offer") this.#sendOffer(); // the answer never came
    else this.#pc.restartIce();
  }

  /** @internal The device is reachable under this connection id now. */
  reachableAs(connectionId) {
    this.#clear("absence");
    this.connectionId = connectionId;
    if (this.#unsent || !["connected", "new"].includes(this.#pc.connectionState)) {
      this.#unsent = false;
      this.restart();
    }
  }

  /** @internal It left the room. Media goes on for a while: it may be on its way back. */
  absent() {
    if (this.state === "failed" || this.#timers.has("over")) this.#call.drop(this, "left");
    else this.#after("absence", ABSENCE_MS, () => this.#call.drop(this, "left"));
  }

  #send(type, data) {
    if (!this.#call.sendTo(this, type, data)) this.#unsent = true;
  }

  #setMedia(media) {
    const { audio, video } = this.media;
    this.media = { audio: media.audio !== false, video: media.video !== false };
    if (audio === this.media.audio && video === this.media.video) return;
    this.#call.emit("media", { remote: this, media: this.media });
  }

  #stateChanged() {
    const state = this.#pc.connectionState;
    if (state === this.state || state === "closed") return;
    this.state = state;
    this.#clear("restart");
    if (state === "connected") {
      this.#attempts = 0;
      this.#clear("negotiation");
      this.#watchForEnd();
    } else if (state === "failed") {
      if (this.#timers.has("absence")) this.#call.drop(this, "left"); // away in both ways: gone
      else this.restart();
    } else if (state === "disconnected") {
      this.#after("restart", RESTART_AFTER_MS, () => this.restart());
    }
    this.#call.emit("state", { remote: this, state });
  }

  /** The DTLS goodbye of a peer connection that was closed comes long before ICE notices the silence. */
  #watchForEnd() {
    const pc = this.#pc;
    const transport = pc.getTransceivers?.()[0]?.receiver.transport;
    if (!transport || transport === this.#watchedTransport) return;
    this.#watchedTransport = transport;
    transport.addEventListener("statechange", () => {
      if (transport.state !== "closed" || pc !== this.#pc || this.state === "closed") return;
      if (this.#timers.has("absence")) this.#call.drop(this, "left");
      else this.#after("over", OVER_MS, () => this.#call.drop(this, "left"));
    });
  }

  #watchNegotiation() {
    this.#after("negotiation", NEGOTIATION_DEADLINE_MS, () => {
      if (this.#pc.connectionState === "connected" || this.#timers.has("absence")) return;
      if (++this.#attempts >= MAX_NEGOTIATIONS) this.#call.drop(this, "unreachable");
      else if (this.#attempts === 1) this.restart();
      else this.#startOver({ initiating: true }); // whatever is stuck in this connection is not in a new one
    });
  }

  #addStream(stream) {
    if (this.streams.has(stream)) return;
    this.streams.add(stream);
    stream.addEventListener("removetrack", () => {
      if (stream.getTracks().length === 0) this.#removeStream(stream);
    });
    this.#call.emit("stream", { remote: this, stream });
  }

  #removeStream(stream) {
    if (this.streams.delete(stream)) this.#call.emit("stream-gone", { remote: this, stream });
  }

  #closePeerConnection() {
    this.#pc.close();
    for (const stream of [...this.streams]) this.#removeStream(stream);
  }

  /** @internal */
  close() {
    if (this.state === "closed") return;
    this.state = "closed";
    for (const name of [...this.#timers.keys()]) this.#clear(name);
    this.#closePeerConnection();
  }

  #after(name, delayMs, callback) {
    this.#clear(name);
    this.#timers.set(
      name,
      this.#environment.setTimeout(() => {
        this.#timers.delete(name);
        callback();
      }, delayMs),
    );
  }

  #clear(name) {
    this.#environment.clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

export class Call extends Emitter {
  #signaling;
  #stream;
  #base;
  #environment;
  #remotes = new Map(); // Remote.key → Remote
  #offs = [];
  #session = null;
  #state = "idle";
  #media = { audio: true, video: true };

  /**
   * `stream` is what the others get to see; null takes part without sending. `configuration` is an
   * RTCConfiguration; its `iceServers` are used where the sidecar names none.
   */
  constructor({ signaling, stream = null, configuration = {}, ...environment }) {
    super();
    this.#signaling = signaling;
    this.#stream = stream;
    this.#base = configuration;
    this.#environment = {
      RTCPeerConnection: globalThis.RTCPeerConnection,
      setTimeout: (callback, ms) => setTimeout(callback, ms),
      clearTimeout: (timer) => clearTimeout(timer),
      ...environment,
    };
  }

  /** `idle`, `active` or `ended`. */
  get state() {
    return this.#state;
  }

  /** The devices in the call. */
  get remotes() {
    return [...this.#remotes.values()];
  }

  /** The id this device goes by in the call: the connection id it entered with. */
  get session() {
    return this.#session;
  }

  get stream() {
    return this.#stream;
  }

  /** What is sent right now, as the others are told. */
  get media() {
    return { ...this.#media };
  }

  /** @internal */
  get configuration() {
    const iceServers = this.#signaling.welcome?.iceServers ?? this.#base.iceServers ?? [];
    return { ...this.#base, iceServers };
  }

  /** Enters the call: connects the signaling client if need be, then calls everyone who takes part. */
  async start() {
    if (this.#state !== "idle") throw new TypeError("a Call starts once; make another one");
    this.#state = "active";
    try {
      const { connectionId } = await this.#signaling.connect();
      if (this.#state !== "active") return;
      this.#session = connectionId;
    } catch (error) {
      this.#end({ reason: "signaling-closed", closed: error.closed });
      throw error;
    }
    this.#listen();
    this.#sayHello();
  }

  /** Shows the others this stream instead. */
  setStream(stream) {
    this.#stream = stream;
    for (const remote of this.#remotes.values()) remote.useStream(stream);
    this.#applyMedia();
  }

  /** Mutes or unmutes `audio` or `video`, and tells the others so. The device stays open. */
  setEnabled(kind, enabled) {
    this.#media[kind] = enabled;
    this.#applyMedia();
    if (this.#state === "active" && this.#session !== null) this.#broadcast("media", {});
  }

  /** Leaves the call, tells everyone, and stays in the room: the signaling client is the app's to close. */
  hangUp() {
    this.#end({ reason: "hung-up" });
  }

  #applyMedia() {
    for (const track of this.#stream?.getTracks() ?? []) track.enabled = this.#media[track.kind];
  }

  #listen() {
    const signaling = this.#signaling;
    const on = (type, listener) => this.#offs.push(signaling.on(type, listener));
    for (const type of ["offer", "answer", "ice-candidate", "media"]) {
      on(`signal:${type}`, (signal) => this.#passOn(signal));
    }
    on("signal:hello", (signal) => this.#greeted(signal));
    on("signal:bye", (signal) => {
      const remote = this.#remoteOf(signal);
      if (remote) this.drop(remote, "hung-up");
    });
    for (const type of ["user-left", "connection-left"]) {
      on(type, ({ connectionId }) => this.#remoteOn(connectionId)?.absent());
    }
    on("welcome", () => {
      for (const remote of this.#remotes.values()) remote.peerConnection.setConfiguration?.(this.configuration);
      this.#sayHello();
    });
    on("closed", (closed) => this.#end({ reason: "signaling-closed", closed }));
    this.#watchNetwork(true);
  }

  #greeted(signal) {
    if (!isObject(signal.data)) return;
    const known = this.#remoteOf(signal);
    known?.reachableAs(signal.senderConnectionId);
    const remote = known ?? this.#add(signal, { initiating: true }); // offers by itself, once it has its tracks
    remote.receive(signal);
    if (known && !signal.data.reply) this.sendTo(remote, "hello", { reply: true, media: this.media });
  }

  #passOn(signal) {
    if (!isObject(signal.data)) return;
    const mayAdd = signal.type === "offer" && isObject(signal.data.offer);
    const remote = this.#remoteOf(signal) ?? (mayAdd ? this.#add(signal, { initiating: false }) : null);
    if (!remote) return;
    if (remote.connectionId !== signal.senderConnectionId) remote.reachableAs(signal.senderConnectionId);
    remote.receive(signal);
  }

  #add(signal, { initiating }) {
    const { senderConnectionId, senderAccountId, senderInfo } = signal;
    const before = this.#remoteOn(senderConnectionId); // one device per connection, whatever it claims
    if (before) this.drop(before, "ended");
    const session = sessionOf(signal);
    const remote = new Remote({
      call: this,
      session,
      connectionId: senderConnectionId,
      account: { ...senderInfo, id: senderAccountId },
      polite: this.#session < session,
      initiating,
      environment: this.#environment,
    });
    this.#remotes.set(remote.key, remote);
    this.emit("joined", { remote });
    return remote;
  }

  #remoteOf(signal) {
    return this.#remotes.get(keyOf(signal.senderAccountId, sessionOf(signal)));
  }

  #remoteOn(connectionId) {
    for (const remote of this.#remotes.values()) if (remote.connectionId === connectionId) return remote;
    return undefined;
  }

  /** @internal Takes a device out of the call. `reason`: `hung-up`, `left`, `unreachable` or `ended`. */
  drop(remote, reason) {
    if (this.#remotes.get(remote.key) !== remote) return;
    this.#remotes.delete(remote.key);
    if (reason === "unreachable") this.sendTo(remote, "bye", {});
    remote.close();
    this.emit("left", { remote, reason });
  }

  #sayHello() {
    this.#broadcast("hello", {});
  }

  #broadcast(type, data) {
    try {
      this.#signaling.send(type, { ...data, session: this.#session, media: this.media });
    } catch (error) {
      if (error.code !== "NOT_CONNECTED" && error.code !== "BUFFER_FULL") throw error;
      // The hello of the next welcome says it all again.
    }
  }

  /** @internal False where there is no way at the moment. */
  sendTo(remote, type, data) {
    try {
      this.#signaling.send(type, { ...data, session: this.#session }, { toConnection: remote.connectionId });
      return true;
    } catch (error) {
      if (error.code !== "NOT_CONNECTED" && error.code !== "BUFFER_FULL") throw error;
      return false;
    }
  }

  #end(why) {
    if (this.#state === "ended") return;
    const wasListening = this.#session !== null;
    this.#state = "ended";
    if (wasListening && why.reason === "hung-up") this.#broadcast("bye", {});
    this.#offs.forEach((off) => off());
    this.#offs = [];
    this.#watchNetwork(false);
    for (const remote of [...this.#remotes.values()]) this.drop(remote, "ended");
    this.emit("ended", why);
  }

  #networkChanged = () => {
    for (const remote of this.#remotes.values()) if (remote.state !== "new") remote.restart();
  };

  #watchNetwork(on) {
    const method = on ? "addEventListener" : "removeEventListener";
    globalThis[method]?.("online", this.#networkChanged);
    globalThis.navigator?.connection?.[method]?.("change", this.#networkChanged);
  }
}

function isObject(value) {
  return typeof value === "object" && value !== null;
}

function sessionOf({ data, senderConnectionId }) {
  const session = data?.session;
  return typeof session === "string" && session.length <= 64 ? session : senderConnectionId;
}

/** Sessions are the sender's word, accounts the sidecar's: nobody can take over another person's session. */
function keyOf(accountId, session) {
  return `${accountId}/${session}`;
}
