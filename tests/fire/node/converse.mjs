// node converse.mjs ws|own URL TOKEN OTHERS: says one offer once OTHERS are there, prints the offers they said.
const [library, url, token, others] = process.argv.slice(2);
const WebSocket = library === "ws" ? (await import("ws")).WebSocket : globalThis.WebSocket;
const socket = new WebSocket(url, ["bearer", token]);
const heard = [];
let there = -1;

socket.addEventListener("message", ({ data }) => {
  const packet = JSON.parse(data).data;
  const before = there;
  if (there < 0) there = packet.participants.length;
  else if (packet.type === "user-joined") there += 1;
  else if (packet.type === "offer") heard.push(packet);
  if (there === Number(others) && before !== there) {
    socket.send(JSON.stringify({ type: "offer", data: { sdp: "ünï😀".repeat(100) } }));
  }
  if (heard.length === Number(others)) socket.close(1000, "done");
});
socket.addEventListener("close", ({ code, wasClean }) => {
  console.log(JSON.stringify(heard));
  process.exitCode = code === 1000 && wasClean ? 0 : 1;
});
