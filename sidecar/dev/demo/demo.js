/** The demo: choose a person and a room, be in a call, see why it ended. */

import { SignalingClient } from "/client/signaling.js";
import { Call } from "/client/call.js";
import { openCamera } from "./camera.js";
import { Choice } from "./choice.js";
import { CAM, CAM_OFF, MIC, MIC_OFF, icon } from "./icons.js";
import { Packets } from "./packets.js";
import { avatar, displayName, make, shortId } from "./people.js";
import { Tiles } from "./tiles.js";
import { endingOf, meaningOf, nextAfter } from "./words.js";

const MEASURE_EVERY_MS = 2000;
const MOST_EVENTS = 100;

const $ = (id) => document.getElementById(id);
const tiles = new Tiles($("tiles"));
const packets = new Packets({
  root: $("packets"), count: $("packet-count"), filter: $("packet-filter"), kinds: $("packet-kinds"),
  hold: $("packet-hold"), clear: $("packet-clear"), nameOf: nameOfConnection,
});

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
  const choice = new Choice({ form: $("choice"), world, onJoin: join });
  show("choose");
  if (new URLSearchParams(location.search).get("join") === "1" && choice.complete) join(choice.value);
}

// --- entering

async function join({ person, room, ttlSeconds, auth, drawn }) {
  history.replaceState(null, "", `?${new URLSearchParams({ room: room.id, as: person.id })}`);
  document.title = `${displayName(person)} in ${room.name}`;
  $("where").textContent = `${displayName(person)} in ${room.name}`;
  const visit = { person, room, wasIn: false, timer: null, camera: null };
  now = visit;
  packets.clear();
  $("events").replaceChildren();
  countRefusals(0);
  show("in-call");
  listInvitees(visit);

  visit.signaling = new SignalingClient({
    gateway: location.origin, prefix: world.mountPrefix, roomId: room.id, auth,
    token: () => mint(person.id, ttlSeconds),
  });
  listenToSignaling(visit);
  chip("connecting", "Connecting…");
  // The room is asked first: nobody likes a camera that turns on for a call they may not join.
  try {
    await visit.signaling.connect();
  } catch {
    return; // "closed" has told why
  }
  visit.camera = await openCamera({ name: displayName(person), id: person.id, drawn });
  if (now !== visit || visit.signaling.state === "closed") {
    visit.camera.stop();
    return;
  }
  if (visit.camera.why) notice(`${visit.camera.why}, so a drawn picture is sent instead.`);
  visit.call = new Call({ signaling: visit.signaling, stream: visit.camera.stream });
  visit.self = tiles.add({ key: "self", id: person.id, name: `${displayName(person)} (you)`, mirrored: !visit.camera.drawn });
  visit.self.video.muted = true;
  visit.self.show(visit.camera.stream);
  visit.self.state("connected", "");
  listenToCall(visit);
  // Two tabs on one machine would howl: the microphone waits to be asked.
  visit.call.setEnabled("audio", false);
  showControls(visit);
  await visit.call.start().catch(() => {});
  if (!visit.camera.why) notice("You joined muted, because two tabs on one machine would howl.");
  visit.timer = setInterval(() => measure(visit), MEASURE_EVERY_MS);
  measure(visit);
  drawRoster(visit);
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
  signaling.on("peers", () => drawRoster(visit));
  signaling.on("welcome", () => {
    const back = visit.wasIn;
    visit.wasIn = true;
    event("good", back ? "Back in the room" : "In the room", back ? "The call went on meanwhile." : "");
    if (back) notice("Signaling is back. The call went on meanwhile.");
    drawRoster(visit);
  });
  signaling.on("state", ({ state, retryInMs, cause }) => {
    if (state === "open") chip("open", "In the room");
    if (state === "connecting") chip("connecting", visit.wasIn ? "Coming back…" : "Connecting…");
    if (state === "waiting") {
      chip("waiting", `Trying again in ${Math.max(1, Math.round(retryInMs / 1000))} s`);
      if (visit.wasIn) notice("The sidecar cannot be reached right now. Picture and sound go on; newcomers cannot join.");
    }
    if (state === "needs-token") {
      chip("waiting", "Needs another token");
      event("bad", "Waiting for another token", cause.message);
    }
  });
  signaling.on("draining", ({ reconnectAfterMs }) =>
    event("plain", "The sidecar is about to restart", `It asked to come back in ${reconnectAfterMs} ms.`));
  signaling.on("disconnected", ({ code, reason, opened }) => {
    if (opened) event("bad", `Connection lost: ${code}`, [reason, meaningOf(code)].filter(Boolean).join(". "));
  });
  signaling.on("refused", (answer) => {
    const title = answer.status ? `Refused: ${answer.status} ${answer.code}` : "No answer";
    const why = [meaningOf(answer.code) || answer.message, answer.detail, nextAfter(answer.verdict)];
    event("bad", title, why.filter(Boolean).join(" "));
  });
  signaling.on("error", (error) =>
    event("bad", `Packet refused: ${error.code}`, [meaningOf(error.code) || error.message, error.detail].filter(Boolean).join(" ")));
  signaling.on("token-refreshed", ({ expiresAt }) =>
    event("good", "Token renewed", expiresAt ? `The new one lives until ${new Date(expiresAt).toLocaleTimeString()}.` : ""));
  signaling.on("refresh-failed", (error) => event("bad", "The token could not be renewed", error.message));
  for (const [type, what] of [["user-joined", "came in"], ["connection-joined", "came in with another device"],
    ["connection-left", "left with one device"], ["user-left", "left the room"]]) {
    signaling.on(type, ({ info, afterReconnect }) => {
      // Everyone has a new connection after a restart: that is no news about them.
      if (!afterReconnect || type.startsWith("user-")) event("plain", `${displayName(info)} ${what}`, "");
    });
  }
  signaling.on("closed", (closed) => leave(visit, closed));
}

function listenToCall(visit) {
  const { call } = visit;
  call.on("joined", ({ remote }) => {
    tiles.add({ key: remote.key, id: remote.accountId, name: nameOfRemote(remote) }).state("new");
    renameTiles(visit);
    drawRoster(visit);
  });
  call.on("stream", ({ remote, stream }) => tiles.get(remote.key)?.show(stream));
  call.on("stream-gone", ({ remote }) => tiles.get(remote.key)?.show([...remote.streams][0] ?? null));
  call.on("media", ({ remote, media }) => tiles.get(remote.key)?.media(media));
  call.on("state", ({ remote, state }) => {
    tiles.get(remote.key)?.state(state);
    drawRoster(visit);
  });
  call.on("left", ({ remote, reason }) => {
    tiles.remove(remote.key);
    const why = { "hung-up": "hung up", left: "is gone", unreachable: "could not be reached", ended: "" }[reason];
    if (why) {
      event("plain", `${displayName(remote.account)} ${why}`, "");
      notice(`${displayName(remote.account)} ${why}.`);
    }
    renameTiles(visit);
    drawRoster(visit);
  });
  call.on("error", (error) => event("bad", "The browser did not take a description", error.message));
}

/** Times are measured every two seconds; a time that cannot be had is left out. */
async function measure(visit) {
  if (now !== visit) return;
  const server = await visit.signaling.ping().catch(() => null);
  visit.serverMs = server;
  for (const remote of visit.call.remotes) {
    if (remote.state !== "connected") continue;
    const ms = await remote.roundTripMs().catch(() => null);
    remote.ms = ms;
    if (ms !== null && remote.state === "connected") tiles.get(remote.key)?.state("connected", `${inMs(ms)}`);
  }
  if (now === visit) drawRoster(visit);
}

const inMs = (ms) => (ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`);

// --- leaving

function leave(visit, closed) {
  if (now !== visit) return;
  now = null;
  clearInterval(visit.timer);
  visit.call?.hangUp();
  visit.camera?.stop();
  tiles.clear();
  notice("");
  chip("", "");
  show("over");
  const code = typeof closed.code === "number" ? `Close code ${closed.code}` : `${closed.status ?? ""} ${closed.code ?? ""}`.trim();
  const said = closed.message && closed.reason !== "left" ? `, “${closed.message}”` : "";
  tellEnd(endingOf(closed, visit.wasIn), closed.reason === "left" ? "" : code + said);
  $("again").onclick = () => {
    document.title = "Call demo";
    show("choose");
    $("join").focus();
  };
  $("ask").hidden = closed.reason === "left";
  $("ask").onclick = async () => {
    const { status, code: answered, message, verdict } = await visit.signaling.probe();
    const would = verdict === "ready" ? "It would let you in now." : meaningOf(answered) || message;
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
  $("again").onclick = () => location.reload();
  $("over-title").focus();
}

// Without a goodbye the others would look at a frozen picture until ICE notices.
addEventListener("pagehide", () => {
  now?.call?.hangUp();
  now?.signaling.close();
});

// --- controls

function showControls(visit) {
  const { call } = visit;
  const toggle = (button, kind, on, off) => {
    const paint = () => {
      const enabled = call.media[kind];
      button.replaceChildren(icon(enabled ? on.path : off.path), make("span", {}, enabled ? on.label : off.label));
      button.setAttribute("aria-pressed", String(!enabled));
      visit.self.media(call.media);
    };
    button.onclick = () => {
      call.setEnabled(kind, !call.media[kind]);
      paint();
    };
    paint();
  };
  toggle($("mic"), "audio", { path: MIC, label: "Mute" }, { path: MIC_OFF, label: "Unmute" });
  toggle($("cam"), "video", { path: CAM, label: "Camera off" }, { path: CAM_OFF, label: "Camera on" });
}

$("hang-up").addEventListener("click", () => {
  now?.call?.hangUp();
  now?.signaling.close();
});

function listInvitees({ room }) {
  const members = new Map(room.members.map((member) => [member.account, member]));
  $("invitees").replaceChildren(...world.people.map((person) => {
    const url = `/?${new URLSearchParams({ room: room.id, as: person.id, join: "1" })}`;
    const state = members.get(person.id)?.state;
    const hint = state === "active" ? "" : state ? `${state}: will be refused` : "not a member: will be refused";
    return make("li", {}, make("a", { href: url, target: "_blank", rel: "opener" },
      avatar(person.id, displayName(person)), make("span", {}, displayName(person)), make("small", {}, hint)));
  }));
}

addEventListener("click", (event) => {
  const invite = $("invite");
  if (invite.open && (!invite.contains(event.target) || event.target.closest("a"))) invite.open = false;
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !$("invite").open) return;
  $("invite").open = false;
  $("invite").querySelector("summary").focus();
});

// --- who is here

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

function drawRoster(visit) {
  if (now !== visit) return;
  const { signaling, call, person } = visit;
  const role = (id) => roleOf(visit.room.members.find((member) => member.account === id));
  const rows = [];
  const server = visit.serverMs == null ? "" : `server ${inMs(visit.serverMs)}`;
  const others = [...(signaling.peers.get(person.id)?.connectionIds ?? [])];
  rows.push(rosterRow(person.id, `${displayName(person)} (you)`, role(person.id),
    [deviceLine("This tab", "connected", server), ...others.map((id) => remoteLine(call, id, "Another tab"))]));
  for (const peer of signaling.peers.values()) {
    if (peer.accountId === person.id) continue;
    const ids = [...peer.connectionIds];
    rows.push(rosterRow(peer.accountId, displayName(peer.info), role(peer.accountId),
      ids.map((id, i) => remoteLine(call, id, ids.length > 1 ? `Tab ${i + 1}` : "One tab"))));
  }
  if (rows.length === 1) {
    rows.push(make("li", { class: "alone" }, "Nobody else is here yet. Use “Add a tab” to bring somebody in."));
  }
  $("roster").replaceChildren(...rows);
}

function rosterRow(id, name, role, devices) {
  return make("li", {}, avatar(id, name), make("div", {},
    make("p", { class: "roster-name" }, name, make("span", { class: "role" }, role)), ...devices));
}

function remoteLine(call, connectionId, label) {
  const remote = call?.remotes.find((other) => other.connectionId === connectionId);
  if (!remote) return deviceLine(label, "new", "in the room, not in the call");
  const ms = remote.ms == null ? "" : inMs(remote.ms);
  return deviceLine(label, remote.state, remote.state === "connected" ? ms : remote.state);
}

function deviceLine(label, state, detail) {
  return make("p", { class: "device", dataset: { state } }, make("span", { class: "dot", "aria-hidden": "true" }),
    label, make("span", { class: "device-detail" }, detail));
}

function roleOf(member) {
  if (!member) return "";
  if (member.role >= 100) return "owner";
  return member.role >= 50 ? "moderator" : "";
}

// --- telling

let refusals = 0;

function event(tone, title, text) {
  $("events").prepend(make("li", { dataset: { tone } },
    make("p", { class: "event-title" }, title, make("time", {}, new Date().toLocaleTimeString([], { hour12: false }))),
    ...(text ? [make("p", {}, text)] : [])));
  while ($("events").children.length > MOST_EVENTS) $("events").lastChild.remove();
  $("events-empty").hidden = true;
  if (tone === "bad") countRefusals(refusals + 1);
}

function countRefusals(count) {
  refusals = count;
  $("refused-count").hidden = count === 0 || !$("panel-refused").hidden;
  $("refused-count").textContent = String(count);
}

let noticeTimer;
function notice(text) {
  clearTimeout(noticeTimer);
  $("notice").textContent = text;
  $("notice").hidden = !text;
  if (text) noticeTimer = setTimeout(() => notice(""), 9000);
}

function chip(kind, text) {
  $("status").dataset.kind = kind;
  $("status").textContent = text;
  $("status").hidden = !text;
}

function show(id) {
  for (const section of ["choose", "in-call", "over"]) $(section).hidden = section !== id;
  document.body.dataset.view = id;
  if (id === "choose") $("where").textContent = "";
}

// --- tabs, with the keys the pattern asks for

const tabs = [...document.querySelectorAll("[role=tab]")];
function openTab(tab) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", String(other === tab));
    other.tabIndex = other === tab ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
  if (tab.id === "tab-refused") countRefusals(0);
}
for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => openTab(tab));
  tab.addEventListener("keydown", ({ key }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!step) return;
    const next = tabs[(index + step + tabs.length) % tabs.length];
    openTab(next);
    next.focus();
  });
}

// For the curious, in the browser's console.
Object.defineProperty(window, "demo", { get: () => now });

begin();
