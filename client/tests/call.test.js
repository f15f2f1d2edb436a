import assert from "node:assert/strict";
import { test } from "node:test";

import { Call } from "../call.js";
import { Emitter, SignalingError } from "../signaling.js";
import { Clock, settled } from "./fakes.js";

/** A signaling client as a call sees it. */
class FakeSignaling extends Emitter {
  sent = [];
  connected = true;
  welcome = { connectionId: "m", iceServers: [{ urls: "stun:stun.test" }] };

  async connect() {
    return this.welcome;
  }

  send(type, data, { toConnection } = {}) {
    if (!this.connected) throw new SignalingError("NOT_CONNECTED", "away");
    this.sent.push({ type, data, toConnection });
  }

  hears(type, data, [account, connection]) {
    this.emit(`signal:${type}`, { type, data, senderAccountId: account, senderConnectionId: connection, senderInfo: { id: account, name: account } });
  }

  comesBackAs(connectionId) {
    this.connected = true;
    this.welcome = { ...this.welcome, connectionId };
    this.emit("welcome", this.welcome);
  }
}

/** As much of an RTCPeerConnection as negotiation looks at. */
class FakePeerConnection extends EventTarget {
  signalingState = "stable";
  connectionState = "new";
  localDescription = null;
  remoteDescription = null;
  candidates = [];
  #senders = [];
  #negotiationNeeded = false;

  constructor(configuration) {
    super();
    this.configuration = configuration;
  }

  getSenders() {
    return this.#senders;
  }

  getTransceivers() {
    return [];
  }

  addTrack(track) {
    this.#senders.push({ track });
    this.#needNegotiation();
  }

  addTransceiver() {
    this.#needNegotiation();
  }

  restartIce() {
    this.#needNegotiation();
  }

  #needNegotiation() {
    if (this.#negotiationNeeded) return;
    this.#negotiationNeeded = true;
    setImmediate(() => {
      this.#negotiationNeeded = false;
      this.dispatchEvent(new Event("negotiationneeded"));
    });
  }

  setConfiguration(configuration) {
    this.configuration = configuration;
  }

  async setLocalDescription() {
    const answering = this.signalingState === "have-remote-offer";
    this.localDescription = { type: answering ? "answer" : "offer", sdp: "mine" };
    this.signalingState = answering ? "stable" : "have-local-offer";
  }

  async setRemoteDescription(description) {
    this.remoteDescription = description;
    this.signalingState = description.type === "offer" ? "have-remote-offer" : "stable";
  }

  async addIceCandidate(candidate) {
    this.candidates.push(candidate);
  }

  becomes(state) {
    this.connectionState = state;
    this.dispatchEvent(new Event("connectionstatechange"));
  }

  close() {
    this.signalingState = "closed";
    this.connectionState = "closed";
  }
}

const STREAM = { getTracks: () => [{ kind: "audio", enabled: true }, { kind: "video", enabled: true }] };

async function inTheCall() {
  const signaling = new FakeSignaling();
  const clock = new Clock();
  const call = new Call({
    signaling, stream: STREAM, RTCPeerConnection: FakePeerConnection,
    setTimeout: clock.setTimeout, clearTimeout: clock.clearTimeout,
  });
  const left = [];
  call.on("left", ({ remote, reason }) => left.push([remote.accountId, reason]));
  await call.start();
  return { signaling, clock, call, left, sent: signaling.sent };
}

const ofType = (sent, type) => sent.filter((signal) => signal.type === type);

/** Someone who entered as `session` says hello, and is connected. */
async function joinedBy(all, [account, session]) {
  all.signaling.hears("hello", { session }, [account, session]);
  await settled();
  all.signaling.hears("answer", { session, answer: { type: "answer", sdp: "theirs" } }, [account, session]);
  await settled();
  const remote = all.call.remotes.find((other) => other.session === session);
  remote.peerConnection.becomes("connected");
  return remote;
}

test("entering says hello to everyone, and leaving says bye", async () => {
  const { call, sent } = await inTheCall();
  call.hangUp();
  assert.deepEqual(sent.map(({ type, toConnection, data }) => [type, toConnection, data.session]),
    [["hello", undefined, "m"], ["bye", undefined, "m"]]);
  assert.equal(call.state, "ended");
});

test("who says hello is offered a connection, with the sidecar's ICE servers", async () => {
  const { signaling, call, sent } = await inTheCall();
  signaling.hears("hello", { session: "t1", media: { audio: false, video: true } }, ["tomasz", "t1"]);
  await settled();
  const [offer] = ofType(sent, "offer");
  assert.equal(offer.toConnection, "t1");
  assert.deepEqual(offer.data.offer, { type: "offer", sdp: "mine" });
  assert.deepEqual(call.remotes[0].peerConnection.configuration.iceServers, [{ urls: "stun:stun.test" }]);
  assert.deepEqual(call.remotes[0].media, { audio: false, video: true });
});

test("an offer out of the blue is answered: a peer need not know of hello", async () => {
  const { signaling, sent } = await inTheCall();
  signaling.hears("offer", { offer: { type: "offer", sdp: "theirs" } }, ["tomasz", "t1"]);
  await settled();
  const [answer] = ofType(sent, "answer");
  assert.equal(answer.toConnection, "t1");
});

test("two devices of one person are two connections", async () => {
  const all = await inTheCall();
  await joinedBy(all, ["tomasz", "t1"]);
  await joinedBy(all, ["tomasz", "t2"]);
  assert.deepEqual(all.call.remotes.map(({ accountId, session }) => [accountId, session]), [["tomasz", "t1"], ["tomasz", "t2"]]);
});

for (const [session, polite] of [["z", true], ["a", false]]) {
  test(`where offers cross, the ${polite ? "lower" : "higher"} id ${polite ? "gives way" : "insists"}`, async () => {
    const { signaling, call, sent } = await inTheCall();
    signaling.hears("hello", { session }, ["tomasz", session]);
    await settled();
    assert.equal(ofType(sent, "offer").length, 1);
    const [{ peerConnection }] = call.remotes;
    signaling.hears("offer", { session, link: "x", offer: { type: "offer", sdp: "theirs" } }, ["tomasz", session]);
    await settled();
    assert.equal(ofType(sent, "answer").length, polite ? 1 : 0);
    assert.equal(call.remotes[0].peerConnection === peerConnection, !polite); // the first offer of all is not rolled back
  });
}

test("after a reconnect it says hello again, and nothing is torn down", async () => {
  const all = await inTheCall();
  const remote = await joinedBy(all, ["tomasz", "t1"]);
  const connection = remote.peerConnection;
  all.signaling.connected = false;
  await all.clock.advance(60_000);
  all.signaling.comesBackAs("m2");
  assert.deepEqual(ofType(all.sent, "hello").map(({ data }) => data.session), ["m", "m"]);
  assert.equal(all.call.remotes[0].peerConnection, connection);
  assert.equal(connection.connectionState, "connected");
});

test("who comes back under another connection id is the same as before, and is reached there", async () => {
  const all = await inTheCall();
  const remote = await joinedBy(all, ["tomasz", "t1"]);
  all.signaling.emit("user-left", { accountId: "tomasz", connectionId: "t1" });
  await all.clock.advance(10_000);
  all.signaling.hears("hello", { session: "t1" }, ["tomasz", "t9"]);
  await all.clock.advance(60_000);
  assert.deepEqual(all.call.remotes, [remote]);
  assert.equal(remote.connectionId, "t9");
  const reply = ofType(all.sent, "hello").at(-1);
  assert.deepEqual([reply.toConnection, reply.data.reply], ["t9", true]);
});

test("who leaves the room and does not come back is cut off, whatever their media does", async () => {
  const all = await inTheCall();
  await joinedBy(all, ["tomasz", "t1"]);
  all.signaling.emit("user-left", { accountId: "tomasz", connectionId: "t1" });
  await all.clock.advance(14_999);
  assert.equal(all.call.remotes.length, 1);
  await all.clock.advance(1);
  assert.deepEqual(all.left, [["tomasz", "left"]]);
});

test("who starts over under the same session gets a new peer connection, and is answered", async () => {
  const all = await inTheCall();
  const remote = await joinedBy(all, ["tomasz", "t1"]);
  const before = remote.peerConnection;
  all.signaling.hears("offer", { session: "t1", link: "another", offer: { type: "offer", sdp: "new" } }, ["tomasz", "t9"]);
  await settled();
  assert.notEqual(remote.peerConnection, before);
  assert.equal(before.connectionState, "closed");
  assert.equal(remote.peerConnection.remoteDescription.sdp, "new");
  assert.equal(ofType(all.sent, "answer").at(-1).toConnection, "t9");
});

test("an offer that is sent again does not make the other side start over", async () => {
  const all = await inTheCall();
  all.signaling.hears("offer", { session: "t1", link: "x", offer: { type: "offer", sdp: "theirs" } }, ["tomasz", "t1"]);
  await settled();
  const [{ peerConnection }] = all.call.remotes;
  all.signaling.hears("offer", { session: "t1", link: "x", offer: { type: "offer", sdp: "theirs" } }, ["tomasz", "t1"]);
  await settled();
  assert.equal(all.call.remotes[0].peerConnection, peerConnection);
  assert.equal(ofType(all.sent, "answer").length, 2);
  const links = new Set(ofType(all.sent, "answer").map(({ data }) => data.link));
  assert.equal(links.size, 1);
});

test("bye takes one device out of the call, not the person's others", async () => {
  const all = await inTheCall();
  await joinedBy(all, ["tomasz", "t1"]);
  await joinedBy(all, ["tomasz", "t2"]);
  all.signaling.hears("bye", { session: "t1" }, ["tomasz", "t1"]);
  assert.deepEqual(all.left, [["tomasz", "hung-up"]]);
  assert.deepEqual(all.call.remotes.map(({ session }) => session), ["t2"]);
});

test("nobody can speak for another person's session", async () => {
  const all = await inTheCall();
  const remote = await joinedBy(all, ["tomasz", "t1"]);
  all.signaling.hears("bye", { session: "t1" }, ["mallory", "x1"]);
  all.signaling.hears("hello", { session: "t1" }, ["mallory", "x1"]);
  await settled();
  assert.equal(remote.connectionId, "t1");
  assert.deepEqual(all.left, []);
});

test("one connection is one device, whatever sessions it claims", async () => {
  const all = await inTheCall();
  for (let i = 0; i < 50; i++) all.signaling.hears("hello", { session: `s${i}` }, ["mallory", "x1"]);
  await settled();
  assert.equal(all.call.remotes.length, 1);
});

test("a path that failed is looked for again", async () => {
  const all = await inTheCall();
  const remote = await joinedBy(all, ["tomasz", "t1"]);
  remote.peerConnection.becomes("failed");
  await settled();
  assert.equal(ofType(all.sent, "offer").length, 2);
});

test("an interruption is given three seconds to mend itself", async () => {
  const all = await inTheCall();
  const remote = await joinedBy(all, ["tomasz", "t1"]);
  remote.peerConnection.becomes("disconnected");
  await all.clock.advance(2_999);
  assert.equal(ofType(all.sent, "offer").length, 1);
  await all.clock.advance(1);
  await settled();
  assert.equal(ofType(all.sent, "offer").length, 2);
});

test("an offer that was never answered is sent again, five times in all, then the device is given up", async () => {
  const all = await inTheCall();
  all.signaling.hears("hello", { session: "t1" }, ["tomasz", "t1"]);
  await all.clock.advance(59_000);
  assert.equal(ofType(all.sent, "offer").length, 5);
  await all.clock.advance(1_500);
  assert.deepEqual(all.left, [["tomasz", "unreachable"]]);
  assert.equal(ofType(all.sent, "bye").at(-1).toConnection, "t1");
});

test("what could not be sent while signaling was away is made up for", async () => {
  const all = await inTheCall();
  const remote = await joinedBy(all, ["tomasz", "t1"]);
  all.signaling.connected = false;
  remote.peerConnection.becomes("failed");
  await settled();
  assert.equal(ofType(all.sent, "offer").length, 1);
  all.signaling.comesBackAs("m2");
  all.signaling.hears("hello", { session: "t1", reply: true }, ["tomasz", "t9"]);
  await settled();
  assert.deepEqual(ofType(all.sent, "offer").map(({ toConnection }) => toConnection), ["t1", "t9"]);
});

test("when signaling stops for good, the call ends for this device", async () => {
  const all = await inTheCall();
  const remote = await joinedBy(all, ["tomasz", "t1"]);
  let ended;
  all.call.on("ended", (why) => { ended = why; });
  all.signaling.emit("closed", { reason: "not-a-member" });
  assert.deepEqual(ended, { reason: "signaling-closed", closed: { reason: "not-a-member" } });
  assert.equal(remote.peerConnection.connectionState, "closed");
});

test("muting tells the others and keeps the track", async () => {
  const all = await inTheCall();
  all.call.setEnabled("audio", false);
  assert.deepEqual(all.sent.at(-1), { type: "media", data: { session: "m", media: { audio: false, video: true } }, toConnection: undefined });
});

test("nonsense from others is no reason to fall over", async () => {
  const all = await inTheCall();
  const errors = [];
  all.call.on("error", (error) => errors.push(error));
  for (const data of [null, "x", 7, [], {}, { offer: null }, { offer: "v=0" }, { session: 5 }, { session: "x".repeat(999) }]) {
    for (const type of ["hello", "offer", "answer", "ice-candidate", "media", "bye"]) all.signaling.hears(type, data, ["mallory", "x1"]);
  }
  await settled();
  assert.equal(all.call.state, "active");
  assert.ok(all.call.remotes.length <= 1);
});
