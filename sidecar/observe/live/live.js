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
    if (name) value.append(" ", element("small", name));
    now.append(value);
  });
  const caption = element("figcaption", title);
  caption.append(element("span", `peak ${shown(Math.max(0, ...series.flat()))}`));
  figure.append(caption, now, lines(series, top));
  return figure;
}

function row(cells) {
  const made = element("tr");
  for (const [text, className] of cells) made.append(element("td", text, className));
  return made;
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

  const health = state.membership;
  const facts = [
    ["Chat service", health.breakerOpen ? "fails, asked once a second" : "asked as needed", health.breakerOpen ? "bad" : "good"],
    ["Live connections", health.stale ? "rest on old answers" : "verified", health.stale ? "bad" : "good"],
    ["Questions answered", health.answered.toLocaleString("en")],
    ["Questions failed", health.failed.toLocaleString("en")],
    ["Answer within (99 %)", duration(health.slowestSeconds)],
    ["Relay within (99 %)", duration(state.relaySeconds)],
    ["Offer to answer (half)", duration(state.callSeconds)],
  ];
  byId("membership").replaceChildren(
    ...facts.flatMap(([name, value, className]) => [element("dt", name), element("dd", value, className)]),
  );
  fill("rooms", state.largestRooms.map((one) => row([[one.room, "id"], [one.connections], [one.participants]])), 3, "Nobody is here.");
  fill(
    "refusals",
    state.refusals.map((one) => row([
      [new Date(one.at * 1000).toLocaleTimeString()], [one.status], [one.code], [one.reason, "text"],
      [one.room ?? "–", "id"], [one.traceId, "id"],
    ])),
    6,
    "None since the start.",
  );
}

async function follow() {
  let pause = 2000;
  try {
    const answer = await fetch("state", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    const state = await answer.json();
    pause = state.sampleSeconds * 1000;
    draw(state);
  } catch {
    byId("status").textContent = "The sidecar does not answer; trying again.";
    byId("status").className = "bad";
  }
  setTimeout(follow, pause);
}

follow();
