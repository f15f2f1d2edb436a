import assert from "node:assert/strict";
import { test } from "node:test";

import { SignalingClient } from "../signaling.js";
import { FakeSocket, ROOM, answer, jwt, participant, setUp, settled } from "./fakes.js";

async function inTheRoom(options, welcome) {
  const all = setUp(options);
  all.client.connect();
  await settled();
  FakeSocket.last.welcome(welcome);
  return { ...all, socket: FakeSocket.last };
}

/** Time passes while packets arrive, so that nobody asks whether the server is alive. */
async function timePasses({ clock, socket }, ms) {
  for (let left = ms; left > 0; left -= 10_000) {
    await clock.advance(Math.min(10_000, left));
    socket.signal("wave", {}, ["mira", "m1"]);
  }
}

// --- connecting

test("the token goes as a subprotocol and stays out of the URL", async () => {
  await inTheRoom({ token: "secret" });
  assert.deepEqual(FakeSocket.last.protocols, ["bearer", "secret"]);
  assert.equal(FakeSocket.last.url.href, `wss://gateway.test/sphere/chat/realtime/${ROOM}?dialect=guide`);
});

test("the token goes as a query parameter where asked to", async () => {
  await inTheRoom({ token: "secret", auth: "query" });
  assert.equal(FakeSocket.last.url.searchParams.get("tk"), "secret");
  assert.equal(FakeSocket.last.protocols, undefined);
});

test("with a cookie no token is needed, and none is sent", async () => {
  const { client } = await inTheRoom({ token: null, auth: "cookie" });
  assert.equal(FakeSocket.last.protocols, undefined);
  assert.equal(FakeSocket.last.url.searchParams.has("tk"), false);
  assert.equal(client.state, "open");
});

test("a whole URL is taken as it is, but for the dialect", async () => {
  await inTheRoom({ gateway: undefined, roomId: undefined, url: "http://localhost:1/api/chat/realtime/x?a=b" });
  assert.equal(FakeSocket.last.url.href, "ws://localhost:1/api/chat/realtime/x?a=b&dialect=guide");
});

test("what cannot work is refused at once", () => {
  const make = (options) => () => new SignalingClient({ gateway: "https://g.test", WebSocket: FakeSocket, ...options });
  assert.throws(make({ roomId: "kitchen", token: "t" }), /GUID/);
  assert.throws(make({ roomId: ROOM }), /token/);
  assert.throws(make({ roomId: ROOM, token: "t", auth: "header" }), /auth/);
});

test("it is open with the first packet, not with the socket", async () => {
  const { client } = setUp();
  const connected = client.connect();
  await settled();
  FakeSocket.last.open();
  assert.equal(client.state, "connecting");
  FakeSocket.last.welcome({ connectionId: "mine" });
  assert.equal(client.state, "open");
  assert.equal((await connected).connectionId, "mine");
  assert.equal((await client.whenConnected()).connectionId, "mine");
});

test("a socket without a first packet is given up after 15 seconds", async () => {
  const { client, clock } = setUp();
  client.connect();
  await settled();
  FakeSocket.last.open();
  await clock.advance(15_000);
  assert.equal(client.state, "waiting");
  assert.notEqual(FakeSocket.last.closedWith, null);
});

// --- packets

test("a signal is told under its own name, sender included", async () => {
  const { client, socket } = await inTheRoom();
  const heard = [];
  client.on("signal", (signal) => heard.push(["any", signal.type]));
  client.on("signal:offer", ({ data, senderAccountId, senderConnectionId }) =>
    heard.push([data.offer.sdp, senderAccountId, senderConnectionId]));
  socket.signal("offer", { offer: { sdp: "v=0" } }, ["mira", "m1"]);
  socket.signal("wave", {}, ["mira", "m1"]);
  assert.deepEqual(heard, [["any", "offer"], ["v=0", "mira", "m1"], ["any", "wave"]]);
});

test("a listener that throws is reported, and the others are still called", async (t) => {
  const { client, socket } = await inTheRoom();
  const uncaught = new Promise((resolve) => { globalThis.reportError = resolve; });
  t.after(() => { delete globalThis.reportError; });
  let called = false;
  client.on("signal", () => { throw new Error("an app's bug"); });
  client.on("signal", () => { called = true; });
  socket.signal("wave", {}, ["mira", "m1"]);
  assert.equal(called, true);
  assert.equal((await uncaught).message, "an app's bug");
});

test("a listener taken off hears nothing more", async () => {
  const { client, socket } = await inTheRoom();
  let heard = 0;
  const off = client.on("signal", () => heard++);
  socket.signal("wave", {}, ["mira", "m1"]);
  off();
  socket.signal("wave", {}, ["mira", "m1"]);
  assert.equal(heard, 1);
});

test("signals go to everyone, to an account, or to a connection", async () => {
  const { client, socket } = await inTheRoom();
  client.send("wave", { n: 1 });
  client.send("wave", { n: 2 }, { to: "mira" });
  client.send("wave", { n: 3 }, { toConnection: "m1" });
  assert.deepEqual(socket.sent, [
    { type: "wave", data: { n: 1 } },
    { type: "wave", data: { n: 2 }, to: "mira" },
    { type: "wave", data: { n: 3 }, toConnection: "m1" },
  ]);
});

test("nothing is lost silently: sending throws while not connected, or while too much is unsent", async () => {
  const { client, socket } = await inTheRoom();
  socket.bufferedAmount = 2_000_000;
  assert.throws(() => client.send("wave"), { code: "BUFFER_FULL" });
  socket.end(1006);
  assert.throws(() => client.send("wave"), { code: "NOT_CONNECTED" });
});

test("what is not understood is left alone", async () => {
  const { client, socket } = await inTheRoom();
  for (const packet of ["not json", "null", "7", '{"type":"news"}', '{"type":"webrtc.signal"}', '{"type":"error"}']) {
    socket.deliver(packet);
  }
  assert.equal(client.state, "open");
});

test("an error packet is told with its code", async () => {
  const { socket, told } = await inTheRoom();
  socket.deliver({ type: "error", errorMessage: "Nobody there", data: { code: "TARGET_NOT_IN_ROOM", detail: "m9" } });
  const [error] = told("error");
  assert.deepEqual([error.code, error.message, error.detail], ["TARGET_NOT_IN_ROOM", "Nobody there", "m9"]);
});

test("tokens are left out of the packets shown to lookers-on", async () => {
  const { client } = await inTheRoom();
  const shown = [];
  client.on("packet", ({ packet }) => shown.push(JSON.stringify(packet)));
  client.refreshToken().catch(() => {});
  await settled();
  assert.deepEqual(shown, ['{"type":"auth.refresh","data":{"token":"…"}}']);
});

// --- who is here

test("peers are kept by account and connection", async () => {
  const { client, socket, told } = await inTheRoom({}, { participants: [participant("mira", "m1", "m2")] });
  assert.deepEqual([...client.peers.get("mira").connectionIds], ["m1", "m2"]);
  socket.signal("user-joined", {}, ["tomasz", "t1"]);
  socket.signal("connection-joined", {}, ["tomasz", "t2"]);
  assert.equal(client.peerOfConnection("t2").accountId, "tomasz");
  socket.signal("connection-left", {}, ["tomasz", "t1"]);
  assert.deepEqual([...client.peers.get("tomasz").connectionIds], ["t2"]);
  socket.signal("user-left", {}, ["tomasz", "t2"]);
  assert.equal(client.peers.has("tomasz"), false);
  assert.equal(told("user-joined")[0].accountId, "tomasz");
  assert.equal(told("user-left")[0].afterReconnect, false);
});

test("who came and who left while away is told after a reconnect", async () => {
  const { clock, socket, told } = await inTheRoom({}, { participants: [participant("mira", "m1"), participant("yuki", "y1", "y2")] });
  socket.end(1011);
  await clock.advance(500);
  FakeSocket.last.welcome({ participants: [participant("yuki", "y2", "y3"), participant("noor", "n1")] });
  assert.deepEqual(told("user-left").map((e) => [e.accountId, e.connectionId, e.afterReconnect]), [["mira", "m1", true]]);
  assert.deepEqual(told("connection-left").map((e) => e.connectionId), ["y1"]);
  assert.deepEqual(told("connection-joined").map((e) => e.connectionId), ["y3"]);
  assert.deepEqual(told("user-joined").map((e) => e.accountId), ["noor"]);
});

// --- coming back

for (const code of [1000, 1001, 1006, 1011, 1012, 1013, 4408, 4429, 4999]) {
  test(`after ${code} it comes back`, async () => {
    const { client, clock, socket, told } = await inTheRoom();
    socket.end(code);
    assert.equal(client.state, "waiting");
    await clock.advance(500);
    FakeSocket.last.welcome();
    assert.equal(client.state, "open");
    assert.equal(FakeSocket.all.length, 2);
    assert.equal(told("disconnected")[0].code, code);
  });
}

for (const [code, reason] of [[1002, "protocol-error"], [1007, "protocol-error"], [1008, "protocol-error"],
  [1009, "message-too-big"], [4403, "not-a-member"], [4409, "replaced"]]) {
  test(`after ${code} it stops for good`, async () => {
    const { client, clock, socket, told } = await inTheRoom();
    socket.end(code, "said the server");
    await clock.advance(3_600_000);
    assert.equal(FakeSocket.all.length, 1);
    assert.equal(client.state, "closed");
    assert.deepEqual(told("closed"), [{ reason, code, message: "said the server" }]);
    await assert.rejects(client.whenConnected(), { code: "CLOSED" });
  });
}

test("who is timed out is told until when", async () => {
  const { client, socket } = await inTheRoom();
  socket.deliver({ type: "error", errorMessage: "Timed out", data: { code: "MEMBER_TIMED_OUT", detail: "2031-01-01T00:00:00Z" } });
  socket.end(4403);
  assert.equal(client.closed.reason, "timed-out");
  assert.equal(client.closed.until, "2031-01-01T00:00:00Z");
});

test("after an end, connect() starts anew", async () => {
  const { client, socket } = await inTheRoom();
  socket.end(4403);
  client.connect();
  await settled();
  FakeSocket.last.welcome();
  assert.equal(client.state, "open");
  assert.equal(client.closed, null);
});

test("a draining server is obeyed to the millisecond", async () => {
  const { client, clock, socket, told } = await inTheRoom();
  socket.deliver({ type: "webrtc", data: { message: "restarting", reconnectAfterMs: 7300 } });
  socket.end(1012);
  assert.equal(told("draining")[0].reconnectAfterMs, 7300);
  await clock.advance(7299);
  assert.equal(FakeSocket.all.length, 1);
  await clock.advance(1);
  assert.equal(FakeSocket.all.length, 2);
  FakeSocket.last.welcome();
  assert.equal(client.state, "open");
});

test("the waits double up to 30 seconds, with full jitter", async () => {
  const waits = [];
  for (const random of [1, 0.5]) {
    const { client, clock, told } = setUp({ random: () => random });
    client.connect();
    for (let i = 0; i < 9; i++) {
      await settled();
      FakeSocket.last.end(1006);
      await settled();
      await clock.advance(told("state").at(-1).retryInMs);
    }
    waits.push(told("state").filter(({ state }) => state === "waiting").map(({ retryInMs }) => retryInMs));
  }
  assert.deepEqual(waits[0], [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
  assert.deepEqual(waits[1], waits[0].map((ms) => ms / 2));
});

test("only a connection that lasted starts the waits anew", async () => {
  const { clock, told, socket } = await inTheRoom();
  const lastWait = () => told("state").findLast(({ state }) => state === "waiting").retryInMs;
  await clock.advance(9_000);
  socket.end(1013);
  await clock.advance(500);
  FakeSocket.last.welcome();
  FakeSocket.last.end(1013);
  assert.equal(lastWait(), 1000);
  await clock.advance(1000);
  FakeSocket.last.welcome();
  await clock.advance(10_000);
  FakeSocket.last.end(1013);
  assert.equal(lastWait(), 500);
});

test("what an abandoned socket still says is ignored", async () => {
  const { client, clock, socket } = await inTheRoom();
  socket.end(1011);
  await clock.advance(500);
  FakeSocket.last.welcome({ connectionId: "new" });
  socket.end(4403);
  socket.welcome({ connectionId: "old" });
  assert.equal(client.connectionId, "new");
  assert.equal(client.state, "open");
});

test("leaving closes with 1000 and does not come back", async () => {
  const { client, clock, socket, told } = await inTheRoom();
  client.close();
  await clock.advance(60_000);
  assert.equal(socket.closedWith.code, 1000);
  assert.equal(FakeSocket.all.length, 1);
  assert.equal(told("closed")[0].reason, "left");
});

test("leaving while waiting stops the wait", async () => {
  const { client, clock, socket } = await inTheRoom();
  socket.end(1011);
  client.close();
  await clock.advance(60_000);
  assert.equal(FakeSocket.all.length, 1);
});

// --- refused handshakes

test("a failed handshake is looked into with a plain GET, the token in a header", async () => {
  const { client, probes } = setUp({ token: "secret", answers: [answer(503, { code: "UNAVAILABLE" })] });
  client.connect();
  await settled();
  FakeSocket.last.end(1006);
  await settled();
  assert.equal(probes[0].url.href, `https://gateway.test/sphere/chat/realtime/${ROOM}?dialect=guide`);
  assert.deepEqual(probes[0].headers, { Authorization: "Bearer secret" });
  assert.equal(probes[0].credentials, "omit");
});

for (const [status, code, reason] of [[403, "NOT_A_MEMBER", "not-a-member"], [403, "ORIGIN_NOT_ALLOWED", "origin-not-allowed"],
  [403, "MEMBER_TIMED_OUT", "timed-out"], [404, "NOT_FOUND", "no-such-room"], [400, "UNKNOWN_DIALECT", "refused"]]) {
  test(`${status} ${code} ends it`, async () => {
    const { client, clock, told } = setUp({ answers: [answer(status, { code, message: "no", detail: "2031-01-01T00:00:00Z" })] });
    const connected = client.connect();
    await settled();
    FakeSocket.last.end(1006);
    await clock.advance(3_600_000);
    assert.equal(FakeSocket.all.length, 1);
    assert.equal(client.closed.reason, reason);
    assert.equal(client.closed.status, status);
    assert.equal(client.closed.until, code === "MEMBER_TIMED_OUT" ? "2031-01-01T00:00:00Z" : undefined);
    assert.equal(told("refused")[0].verdict, "stop");
    await assert.rejects(connected, { code: "CLOSED" });
  });
}

for (const [status, code] of [[409, "HTTP_409"], [502, "HTTP_502"], [400, "WEBSOCKET_EXPECTED"]]) {
  test(`${status} ${code} is tried again with backoff`, async () => {
    const { client, clock } = setUp({ answers: [answer(status, { code })] });
    client.connect();
    await settled();
    FakeSocket.last.end(1006);
    await settled();
    assert.equal(client.state, "waiting");
    await clock.advance(500);
    assert.equal(FakeSocket.all.length, 2);
  });
}

test("let in by the probe and yet not connected, it says what may be the reason", async () => {
  const { client, told } = setUp({ answers: [answer(400, { code: "WEBSOCKET_EXPECTED", message: "this is a WebSocket endpoint" })] });
  client.connect();
  await settled();
  FakeSocket.last.end(1006);
  await settled();
  const { state, cause } = told("state").at(-1);
  assert.deepEqual([state, cause.code], ["waiting", "CONNECT_FAILED"]);
  assert.match(cause.message, /would be let in.*may be full.*blocks WebSockets/);
  assert.deepEqual(told("refused"), []);
});

for (const [status, code] of [[429, "RATE_LIMITED"], [503, "MEMBERSHIP_UNAVAILABLE"]]) {
  test(`${status} ${code} is tried again after Retry-After, and a little later than that`, async () => {
    const { client, clock } = setUp({ answers: [answer(status, { code }, { "Retry-After": "20" })] });
    client.connect();
    await settled();
    FakeSocket.last.end(1006);
    await clock.advance(20_999);
    assert.equal(FakeSocket.all.length, 1);
    await clock.advance(1);
    assert.equal(FakeSocket.all.length, 2);
  });
}

test("an unreachable server is not taken for a refusal", async () => {
  const { client, told } = setUp();
  client.connect();
  await settled();
  FakeSocket.last.end(1006);
  await settled();
  assert.equal(client.state, "waiting");
  assert.deepEqual([told("refused")[0].status, told("refused")[0].code], [0, "UNREACHABLE"]);
});

test("a runtime that tells a failed handshake by an error alone is understood, one that tells both too", async () => {
  const { client, probes } = setUp({ answers: [answer(403, { code: "NOT_A_MEMBER" })] });
  client.connect();
  await settled();
  FakeSocket.last.fail();
  FakeSocket.last.end(1006);
  await settled();
  assert.equal(client.state, "closed");
  assert.equal(probes.length, 1);
});

test("the probe tells a stranger from a server that is away, without connecting", async () => {
  const { client } = setUp({
    answers: [answer(400, { code: "WEBSOCKET_EXPECTED" }), answer(401, { code: "TOKEN_EXPIRED" }), answer(403, { code: "NOT_A_MEMBER" }),
      answer(503, { code: "UNAVAILABLE" }, { "Retry-After": "2" }), new Response("<html>", { status: 504 })],
  });
  const verdicts = [];
  for (let i = 0; i < 6; i++) verdicts.push(await client.probe());
  assert.deepEqual(verdicts.map(({ verdict }) => verdict), ["ready", "token", "stop", "later", "later", "later"]);
  assert.equal(verdicts[3].retryAfterMs, 2000);
  assert.deepEqual(verdicts.slice(4).map(({ code }) => code), ["HTTP_504", "UNREACHABLE"]);
  assert.equal(FakeSocket.all.length, 0);
});

// --- tokens

test("4401 asks for a new token and comes back with it at once", async () => {
  const tokens = ["t1", "t2"];
  const { client, socket } = await inTheRoom({ token: async () => tokens.shift() });
  socket.end(4401, "token expired");
  await settled();
  assert.deepEqual(FakeSocket.last.protocols, ["bearer", "t2"]);
  FakeSocket.last.welcome();
  assert.equal(client.state, "open");
});

test("a refused token is not sent again: the client waits for another one", async () => {
  const { client, clock, socket } = await inTheRoom({ token: () => "the same" });
  socket.end(4401);
  await clock.advance(3_600_000);
  assert.equal(client.state, "needs-token");
  assert.equal(FakeSocket.all.length, 1);
  client.setToken("another");
  await settled();
  assert.deepEqual(FakeSocket.last.protocols, ["bearer", "another"]);
});

test("a token that is a string cannot be renewed: 4401 waits for the app", async () => {
  const { client, socket } = await inTheRoom({ token: "t1" });
  socket.end(4401);
  await settled();
  assert.equal(client.state, "needs-token");
  client.setToken("t2");
  await settled();
  FakeSocket.last.welcome();
  assert.equal(client.state, "open");
});

test("401 on the handshake asks for a new token, three times at most", async () => {
  let count = 0;
  const answers = [1, 2, 3].map(() => answer(401, { code: "TOKEN_REVOKED" }));
  const { client, clock } = setUp({ token: () => `t${++count}`, answers });
  client.connect();
  for (let i = 0; i < 3; i++) {
    await settled();
    FakeSocket.last.end(1006);
    await settled();
    await clock.advance(1_000);
  }
  assert.equal(client.state, "needs-token");
  assert.equal(FakeSocket.all.length, 3);
});

test("tokens that are taken and refused right after do not make it spin", async () => {
  let count = 0;
  const { client, clock } = await inTheRoom({ token: () => `t${++count}` });
  for (let i = 0; i < 3; i++) {
    FakeSocket.last.end(4401);
    await clock.advance(1_000);
    if (client.state === "connecting") FakeSocket.last.welcome();
  }
  assert.equal(client.state, "needs-token");
  assert.equal(FakeSocket.all.length, 3);
});

test("a token source that fails is tried again with backoff", async () => {
  let fails = true;
  const token = async () => {
    if (fails) throw new Error("the login service is away");
    return "t1";
  };
  const { client, clock, told } = setUp({ token });
  client.connect();
  await settled();
  assert.equal(client.state, "waiting");
  assert.match(told("state").at(-1).cause.message, /login service is away/);
  fails = false;
  await clock.advance(500);
  FakeSocket.last.welcome();
  assert.equal(client.state, "open");
});

test("a token source that never answers is given up after 30 seconds", async () => {
  const { client, clock } = setUp({ token: () => new Promise(() => {}) });
  client.connect();
  await clock.advance(30_000);
  assert.equal(client.state, "waiting");
});

test("a token is renewed on the open connection before it expires", async () => {
  const tokens = [jwt({ expiresInSeconds: 300, mark: "a" }), jwt({ expiresInSeconds: 600, mark: "b" })];
  const second = tokens[1];
  const room = await inTheRoom({ token: () => tokens.shift() });
  await timePasses(room, 238_000);
  assert.deepEqual(room.socket.sent, []);
  await timePasses(room, 3_000);
  assert.deepEqual(room.socket.sent, [{ type: "auth.refresh", data: { token: second } }]);
  room.socket.deliver({ type: "auth.refreshed", data: { expiresAt: "2031-01-01T00:00:00Z" } });
  assert.deepEqual(room.told("token-refreshed"), [{ expiresAt: "2031-01-01T00:00:00Z" }]);
});

test("a source that keeps a token to its end is asked every ten seconds, and the same token is not handed over", async () => {
  let token = jwt({ expiresInSeconds: 300, mark: "a" });
  const asked = [];
  const source = (need) => {
    asked.push(need);
    return token;
  };
  const room = await inTheRoom({ token: source });
  await timePasses(room, 265_000);
  assert.deepEqual(asked, [{ renew: false }, { renew: true }, { renew: true }, { renew: true }]);
  assert.deepEqual(room.socket.sent, []);
  token = jwt({ expiresInSeconds: 300, mark: "b" });
  await timePasses(room, 10_000);
  assert.equal(room.socket.sent.at(-1).data.token, token);
});

test("after a refusal the source is asked to renew", async () => {
  const asked = [];
  const { socket } = await inTheRoom({ token: ({ renew }) => `t${asked.push(renew)}` });
  socket.end(4401);
  await settled();
  assert.deepEqual(asked, [false, true]);
});

test("a clock that is behind does not make the renewal late", async () => {
  const room = await inTheRoom({ token: () => jwt({ expiresInSeconds: 3900, livesSeconds: 300, mark: Math.random() }) });
  await timePasses(room, 241_000);
  assert.equal(room.socket.sent.at(-1)?.type, "auth.refresh");
});

test("a renewal that is refused is told and tried again", async () => {
  const room = await inTheRoom({ token: () => jwt({ expiresInSeconds: 300, mark: Math.random() }) });
  await timePasses(room, 241_000);
  room.socket.deliver({ type: "error", errorMessage: "bad", data: { code: "TOKEN_INVALID" } });
  await settled();
  assert.equal(room.told("refresh-failed")[0].code, "TOKEN_INVALID");
  assert.equal(room.client.state, "open");
  await timePasses(room, 10_000);
  assert.equal(room.socket.sent.filter(({ type }) => type === "auth.refresh").length, 2);
});

// --- heartbeat

test("ping tells the round trip, and gives up after ten seconds", async () => {
  const { client, clock, socket } = await inTheRoom();
  const first = client.ping();
  await clock.advance(25);
  socket.deliver({ type: "pong", data: socket.sent.at(-1).data });
  assert.equal(await first, 25);
  const second = assert.rejects(client.ping(), { code: "PING_TIMEOUT" });
  await clock.advance(10_000);
  await second;
});

test("pings under way end with the connection", async () => {
  const { client, socket } = await inTheRoom();
  const ping = client.ping();
  socket.end(1011);
  await assert.rejects(ping, { code: "NOT_CONNECTED" });
});

test("silence is asked about, and without an answer the connection is given up", async () => {
  const { client, clock, socket, told } = await inTheRoom({}, { heartbeatSeconds: 20 });
  await clock.advance(20_000);
  assert.equal(socket.sent.at(-1).type, "ping");
  await clock.advance(10_000);
  assert.equal(client.state, "waiting");
  assert.notEqual(socket.closedWith, null);
  assert.equal(told("disconnected")[0].code, 4408);
});

test("a connection on which packets arrive is left alone", async () => {
  const { client, clock, socket } = await inTheRoom({}, { heartbeatSeconds: 20 });
  for (let i = 0; i < 10; i++) {
    await clock.advance(15_000);
    socket.signal("wave", {}, ["mira", "m1"]);
  }
  assert.deepEqual(socket.sent, []);
  assert.equal(client.state, "open");
});

test("an answer to the question, whatever it is, is a sign of life", async () => {
  const { client, clock, socket } = await inTheRoom({}, { heartbeatSeconds: 20 });
  await clock.advance(20_000);
  await clock.advance(5_000);
  socket.signal("wave", {}, ["mira", "m1"]);
  await clock.advance(5_000);
  assert.equal(client.state, "open");
});
