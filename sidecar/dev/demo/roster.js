/** Who is in the room, with which devices, and how far away they are. */

import { avatar, displayName, make, nameInRoom } from "./people.js";
import { inMs } from "./telling.js";

export function drawRoster(root, { signaling, call, person, room, serverMs, pathMs }) {
  const member = (id) => room.members.find(({ account }) => account === id);
  const line = (connectionId, label) => remoteLine({ call, pathMs, connectionId, label });
  const mine = [...(signaling.peers.get(person.id)?.connectionIds ?? [])];
  const rows = [
    row(person.id, `${nameInRoom(person, room)} (you)`, member(person.id), [
      deviceLine("This tab", "connected", serverMs === null ? "" : `server ${inMs(serverMs)}`),
      ...mine.map((id) => line(id, "Another tab")),
    ]),
  ];
  for (const peer of signaling.peers.values()) {
    if (peer.accountId === person.id) continue;
    const ids = [...peer.connectionIds];
    const devices = ids.map((id, i) => line(id, ids.length > 1 ? `Tab ${i + 1}` : "One tab"));
    rows.push(row(peer.accountId, displayName(peer.info), member(peer.accountId), devices));
  }
  if (signaling.peers.size === 0) {
    rows.push(make("li", { class: "alone" }, "Nobody else is here yet. Use “Add a tab” to bring somebody in."));
  }
  root.replaceChildren(...rows);
}

function row(id, name, member, devices) {
  return make("li", {}, avatar(id, name), make("div", {},
    make("p", { class: "roster-name" }, name, make("span", { class: "role" }, roleOf(member))), ...devices));
}

function remoteLine({ call, pathMs, connectionId, label }) {
  const remote = call?.remotes.find((other) => other.connectionId === connectionId);
  if (!remote) return deviceLine(label, "new", "not in the call");
  if (remote.state !== "connected") return deviceLine(label, remote.state, remote.state === "new" ? "calling" : remote.state);
  const ms = pathMs.get(remote.key);
  return deviceLine(label, "connected", ms === undefined ? "connected" : inMs(ms));
}

function deviceLine(label, state, detail) {
  return make("p", { class: "device", dataset: { state } }, make("span", { class: "dot", "aria-hidden": "true" }),
    label, make("span", { class: "device-detail" }, detail));
}

function roleOf(member) {
  return member?.role === "member" ? "" : (member?.role ?? "");
}
