// Draws what /state says, again every sample. Text goes in as text, never as HTML.

const plots = [
  ["Connections", [["", "connections"]]],
  ["Rooms", [["", "rooms"]]],
  ["Signals a second", [["received", "received"], ["delivered", "delivered"]]],
  ["Handshakes a second", [["accepted", "accepted"], ["refused", "refused"]]],
];

const byId = (id) => document.getElementById(id);

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function shown(value) {
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  return seconds < 1 ? `≤ ${+(seconds * 1000).toFixed(2)} ms` : `≤ ${seconds} s`;
}

function lines(series, top) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 150 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const values of series) {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    const left = 150 - values.length;
    line.setAttribute("points", values.map((value, i) => `${left + i},${39 - (value / top) * 37}`).join(" "));
    svg.append(line);
  }
  return svg;
}

function plot([title, parts], samples) {
  const figure = element("figure");
  const series = parts.map(([, key]) => samples.map((sample) => sample[key]));
  const top = Math.max(1, ...series.flat());
  const now = element("p");
  parts.forEach(([name], i) => {
    const value = element("span", shown(series[i].at(-1) ?? 0));
    const peak = `peak ${shown(Math.max(0, ...series[i]))}`;
    value.append(" ", element("small", name ? `${name}, ${peak}` : peak));
    now.append(value);
  });
  figure.append(element("figcaption", title), now, lines(series, top));
  return figure;
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hourCycle: "h23" });
}

function row(cells) {
  const made = element("tr");
  for (const [text, className, label, title] of cells) {
    const cell = element("td", text, className);
    if (label) cell.dataset.label = label;
    if (title) cell.title = title;
    made.append(cell);
  }
  return made;
}

function refusal(one) {
  return row([
    [clock(one.at)], [one.status], [one.code], [one.reason, "text"],
    [one.room?.slice(0, 8) ?? "–", "id", "Room", one.room], [one.traceId, "id", "Trace"],
  ]);
}

/** Terms and what they are now; `className` says how it looks, `more` is said beside it. */
function list(id, facts) {
  byId(id).replaceChildren(...facts.flatMap(([name, value, className, more]) => {
    const described = element("dd", value, className);
    if (more) described.append(" ", element("small", more));
    return [element("dt", name), described];
  }));
}

const CHAT_SERVICE = {
  answers: ["answers", "good"],
  silent: ["does not answer", "bad"],
  unasked: ["not asked yet", "quiet"],
};

function health({ ready, membership, samples, keysFailing, busConnected }) {
  const asked = membership.askedAt === null ? "" : `asked ${clock(membership.askedAt)}`;
  const live = samples.at(-1).connections ? ["verified", "good"] : ["none", "quiet"];
  return [
    ["Ready", ready, ready === "ok" ? "good" : "bad"],
    ["Chat service", ...CHAT_SERVICE[membership.chatService], asked],
    ["Live connections", ...(membership.stale ? ["rest on old answers", "bad"] : live)],
    ["Token keys", ...(keysFailing ? ["cannot be refreshed", "bad"] : ["up to date", "good"])],
    ...(busConnected === null ? [] : [["Bus", ...(busConnected ? ["connected", "good"] : ["not connected", "bad"])]]),
  ];
}

function fill(id, rows, columns, empty) {
  if (!rows.length) {
    const none = element("td", empty, "none");
    none.colSpan = columns;
    const line = element("tr");
    line.append(none);
    rows = [line];
  }
  byId(id).replaceChildren(...rows);
}

function draw(state) {
  byId("version").textContent = state.version;
  const last = state.samples.at(-1);
  const limit = state.connectionsLimit ? ` of ${state.connectionsLimit.toLocaleString("en")} connections` : " connections";
  byId("status").textContent = `${last.connections.toLocaleString("en")}${limit}${state.draining ? ", draining" : ""}`;
  byId("status").className = state.draining ? "bad" : "";
  byId("plots").replaceChildren(...plots.map((one) => plot(one, state.samples)));

  list("health", health(state));
  const { answered, failed, slowestSeconds } = state.membership;
  list("figures", [
    ["Chat service answered", answered.toLocaleString("en")],
    ["Chat service failed", failed.toLocaleString("en")],
    ["It answers within (99 %)", duration(slowestSeconds)],
    ["Signals relayed within (99 %)", duration(state.relaySeconds)],
    ["Offer to answer (half)", duration(state.callSeconds)],
  ]);
  fill("rooms", state.largestRooms.map((one) => row([[one.room, "id"], [one.connections], [one.participants]])), 3, "Nobody is here.");
  fill("refusals", state.refusals.map(refusal), 6, "None since the start.");
}

let drawnAt = null;

async function follow() {
  let pause = 2000;
  try {
    const answer = await fetch("state", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    const state = await answer.json();
    pause = state.sampleSeconds * 1000;
    draw(state);
    drawnAt = Date.now() / 1000;
    document.body.classList.remove("unheard");
  } catch {
    const old = drawnAt === null ? "" : ` What is below was so at ${clock(drawnAt)}.`;
    byId("status").textContent = `The sidecar does not answer; trying again.${old}`;
    document.body.classList.add("unheard");
    byId("status").className = "bad";
  }
  setTimeout(follow, pause);
}

follow();
