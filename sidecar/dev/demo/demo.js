/** The demo: choose a person and a room, be in a call, see why it ended. */

import { SignalingClient } from "/client/signaling.js";
import { Call } from "/client/call.js";
import { openCamera } from "./camera.js";
import { Choice } from "./choice.js";
import { Comings } from "./comings.js";
import { bindToggles, closeLikeAMenu, listInvitees } from "./controls.js";
import { Packets } from "./packets.js";
import { displayName, nameInRoom, shortId } from "./people.js";
import { drawRoster } from "./roster.js";
import { makeTabs } from "./tabs.js";
import { Chip, EventList, Notice, clockTime, inMs } from "./telling.js";
import { Tiles } from "./tiles.js";
import { endingOf, meaningOf, nextAfter, whyClosed } from "./words.js";

const MEASURE_EVERY_MS = 2000;

const $ = (id) => document.getElementById(id);
const tiles = new Tiles({ root: $("tiles"), sound: $("sound") });
const packets = new Packets({
  root: $("packets"), count: $("packet-count"), filter: $("packet-filter"), kinds: $("packet-kinds"),
  hold: $("packet-hold"), clear: $("packet-clear"), nameOf: nameOfConnection,
});

const events = new EventList({ root: $("events"), empty: $("events-empty"), badge: $("events-count") });
const passing = new Notice($("notice"));
const notice = (text) => passing.show(text);
const chip = new Chip($("status"));

/** What there is while one is in a call, or was until just now. */
let now = null;
let world = null;

async function begin() {
  try {
    const response = await fetch("/demo/people.json");
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    world = await response.json();
  } catch (error) {
    show("over");
    tellEnd(["The demo's server does not answer", `${error.message}.`, "Start it with make run, then load this page again."], "");
    return;
  }
  for (const element of document.querySelectorAll(".sample-file")) element.textContent = world.sampleFile;
  const choice = new Choice({ form: $("choice"), badLink: $("bad-link"), world, onJoin: join });
  show("choose");
  if (new URLSearchParams(location.search).get("join") === "1" && choice.complete) join(choice.value);
}

// --- entering

async function join(choice) {
  const { person, room, ttlSeconds, auth, drawn } = choice;
  const name = nameInRoom(person, room);
  history.replaceState(null, "", `?${new URLSearchParams({ room: room.id, as: person.id })}`);
  document.title = $("where").textContent = `${name} in ${room.name}`;
  const visit = { choice, person, room, comings: new Comings(events), wasIn: false, timer: null, camera: null, serverMs: null, pathMs: new Map() };
  now = visit;
  packets.clear();
  events.clear();
  $("mic").hidden = $("cam").hidden = true;
  show("in-call");
  listInvitees($("invitees"), { people: world.people, room });

  visit.signaling = new SignalingClient({
    gateway: location.origin, prefix: world.mountPrefix, roomId: room.id, auth,
    token: () => mint(person.id, ttlSeconds),
  });
  listenToSignaling(visit);
  chip.show("connecting", "Connecting…");
  // The room is asked first: nobody likes a camera that turns on for a call they may not join.
  try {
    await visit.signaling.connect();
  } catch {
    return; // "closed" has told why
  }
  visit.camera = await openCamera({ name, id: person.id, drawn });
  if (now !== visit || visit.signaling.state === "closed") {
    visit.camera.stop();
    return;
  }
  if (visit.camera.why) notice(`${visit.camera.why}, so a drawn picture is sent instead.`);
  visit.call = new Call({ signaling: visit.signaling, stream: visit.camera.stream });
  visit.self = tiles.add({ key: "self", id: person.id, name: `${name} (you)`, own: true, mirrored: !visit.camera.drawn });
  visit.self.show(visit.camera.stream);
  visit.self.state("connected");
  listenToCall(visit);
  // Two tabs on one machine would howl: the microphone waits to be asked.
  visit.call.setEnabled("audio", false);
  bindToggles({ mic: $("mic"), cam: $("cam"), call: visit.call, onChange: (media) => visit.self.media(media) });
  await visit.call.start().catch(() => {});
  if (!visit.camera.why) notice("You joined muted, because two tabs on one machine would howl.");
  visit.timer = setInterval(() => measure(visit), MEASURE_EVERY_MS);
  measure(visit);
  refresh(visit);
}

async function mint(account, ttlSeconds) {
  const response = await fetch("/demo/token", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(ttlSeconds ? { account, ttlSeconds } : { account }),
  });
  if (!response.ok) throw new Error(`the demo's token service answered ${response.status}`);
  return (await response.json()).token;
}

// --- what happens in the room

function listenToSignaling(visit) {
  const { signaling } = visit;
  signaling.on("packet", (packet) => packets.add(packet));
  signaling.on("peers", () => refresh(visit));
  signaling.on("welcome", () => {
    const back = visit.wasIn;
    visit.wasIn = true;
    const wentOn = back && visit.call?.remotes.length ? "The call went on meanwhile." : "";
    events.add("good", back ? "Back in the room" : "In the room", wentOn);
    if (back) notice(`Signaling is back. ${wentOn}`);
    refresh(visit);
  });
  signaling.on("state", ({ state, retryInMs, cause }) => {
    if (state === "open") chip.show("open", "In the room");
    if (state === "connecting") chip.show("connecting", visit.wasIn ? "Coming back…" : "Connecting…");
    if (state === "waiting") {
      chip.show("waiting", "Trying again", retryInMs);
      if (cause.code === "CONNECT_FAILED") events.add("bad", "The WebSocket did not open", `${cause.message} ${nextAfter("later")}`);
      notice(visit.wasIn && cause.code !== "CONNECT_FAILED"
        ? "The sidecar cannot be reached right now. Picture and sound go on; newcomers cannot join."
        : `Not ${visit.wasIn ? "back" : "in"} yet: ${meaningOf(cause.code) || cause.message}`);
    }
    if (state === "needs-token") {
      chip.show("waiting", "Needs another token");
      events.add("bad", "Waiting for another token", cause.message);
    }
  });
  signaling.on("draining", ({ reconnectAfterMs }) =>
    events.add("plain", "The sidecar is about to restart", `It asked to come back in ${inMs(reconnectAfterMs)}.`));
  signaling.on("disconnected", ({ code, reason, opened }) => {
    if (opened) events.add("bad", `Connection lost: ${code}`, whyClosed(code, reason));
  });
  signaling.on("refused", (answer) => {
    const title = answer.status ? `Refused: ${answer.status} ${answer.code}` : "No answer";
    const why = [meaningOf(answer.code) || answer.message, answer.detail, nextAfter(answer.verdict)];
    events.add("bad", title, why.filter(Boolean).join(" "));
  });
  signaling.on("error", (error) =>
    events.add("bad", `Packet refused: ${error.code}`, [meaningOf(error.code) || error.message, error.detail].filter(Boolean).join(" ")));
  signaling.on("token-refreshed", ({ expiresAt }) =>
    events.add("good", "Token renewed", expiresAt ? `The new one lives until ${clockTime(expiresAt)}.` : ""));
  signaling.on("refresh-failed", (error) => events.add("bad", "The token could not be renewed", error.message));
  for (const type of ["user-joined", "connection-joined", "connection-left", "user-left"]) {
    signaling.on(type, (presence) => visit.comings.presence(type, presence));
  }
  signaling.on("closed", (closed) => leave(visit, closed));
}

function listenToCall(visit) {
  const { call } = visit;
  call.on("joined", ({ remote }) => {
    tiles.add({ key: remote.key, id: remote.accountId, name: nameOfRemote(remote) }).state("new");
    renameTiles(visit);
    refresh(visit);
  });
  call.on("stream", ({ remote, stream }) => tiles.get(remote.key)?.show(stream));
  call.on("stream-gone", ({ remote }) => tiles.get(remote.key)?.show([...remote.streams][0] ?? null));
  call.on("media", ({ remote, media }) => tiles.get(remote.key)?.media(media));
  call.on("state", ({ remote, state }) => {
    tiles.get(remote.key)?.state(state);
    refresh(visit);
  });
  call.on("left", ({ remote, reason }) => {
    tiles.remove(remote.key);
    const why = { "hung-up": "hung up", left: "is gone", unreachable: "could not be reached", ended: "" }[reason];
    if (why) {
      visit.comings.outOfCall(remote, reason, why);
      notice(`${displayName(remote.account)} ${why}.`);
    }
    renameTiles(visit);
    refresh(visit);
  });
  call.on("error", (error) => events.add("bad", "The browser did not take a description", error.message));
}

/** Times are measured every two seconds; a time that cannot be had is left out. */
async function measure(visit) {
  visit.serverMs = await visit.signaling.ping().catch(() => null);
  for (const remote of visit.call.remotes) {
    const ms = remote.state === "connected" ? await remote.roundTripMs().catch(() => null) : null;
    if (ms === null) visit.pathMs.delete(remote.key);
    else visit.pathMs.set(remote.key, ms);
    if (ms !== null && remote.state === "connected") tiles.get(remote.key)?.state("connected", inMs(ms));
  }
  refresh(visit);
}

function refresh(visit) {
  if (now === visit) drawRoster($("roster"), visit);
}

// --- leaving

function leave(visit, closed) {
  if (now !== visit) return;
  now = null;
  clearInterval(visit.timer);
  visit.call?.hangUp();
  visit.camera?.stop();
  tiles.clear();
  notice("");
  chip.show("", "");
  show("over");
  const code = typeof closed.code === "number" ? `Close code ${closed.code}` : `${closed.status ?? ""} ${closed.code ?? ""}`.trim();
  const said = closed.message && closed.reason !== "left" ? `, “${closed.message}”` : "";
  tellEnd(endingOf(closed, visit.wasIn), closed.reason === "left" ? "" : code + said);
  $("ask").hidden = closed.reason === "left";
  $("rejoin").hidden = closed.reason !== "left";
  $("rejoin").onclick = () => join(visit.choice);
  $("ask").onclick = async () => {
    const { status, code: answered, message, verdict } = await visit.signaling.probe();
    const would = verdict === "ready" ? "It would let you in now." : meaningOf(answered) || message;
    $("rejoin").hidden = verdict !== "ready";
    $("asked").textContent = `${status || "No answer"} ${answered}: ${would}`;
  };
}

function tellEnd([title, why, next], code) {
  $("over-code").textContent = code;
  $("over-title").textContent = title;
  $("over-why").textContent = why;
  $("over-next").textContent = next;
  $("asked").textContent = "";
  $("ask").hidden = !code;
  $("over-title").focus();
}

// Without a goodbye the others would look at a frozen picture until ICE notices.
addEventListener("pagehide", () => {
  now?.call?.hangUp();
  now?.signaling.close();
});

// --- names

function nameOfRemote(remote) {
  const name = displayName(remote.account);
  const devices = (now?.call?.remotes ?? []).filter((other) => other.accountId === remote.accountId);
  const mine = remote.accountId === now?.person.id;
  return devices.length > 1 || mine ? `${name} · ${mine ? "another tab" : `tab ${shortId(remote.session)}`}` : name;
}

function renameTiles(visit) {
  for (const remote of visit.call.remotes) tiles.get(remote.key)?.rename(nameOfRemote(remote));
}

function nameOfConnection(connectionId, info) {
  const signaling = now?.signaling;
  const peer = signaling?.peerOfConnection(connectionId);
  const name = info ?? peer?.info;
  if (!name) return shortId(connectionId);
  return (peer?.connectionIds.size ?? 1) > 1 ? `${displayName(name)} (${shortId(connectionId)})` : displayName(name);
}

function show(id) {
  for (const section of ["choose", "in-call", "over"]) $(section).hidden = section !== id;
  document.body.dataset.view = id;
  if (id !== "in-call") $("where").textContent = "";
}

$("hang-up").addEventListener("click", () => {
  now?.call?.hangUp();
  now?.signaling.close();
});
$("again").addEventListener("click", () => location.reload()); // who belongs where may have changed meanwhile
closeLikeAMenu($("invite"));
makeTabs($("tabs"), (tab) => {
  if (tab.id === "tab-events") events.read();
});

// For the curious, in the browser's console.
Object.defineProperty(window, "demo", { get: () => now });

begin();
