// The client module under Node against a real sidecar: commands come in, events go out.

import { createInterface } from "node:readline";

import { SignalingClient } from "../../client/signaling.js";

const [gateway, roomId, firstToken, auth] = process.argv.slice(2);
let token = firstToken;
const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const client = new SignalingClient({ gateway, roomId, auth, token: () => token });

client.on("state", ({ state, retryInMs }) => tell({ event: "state", state, retryInMs }));
client.on("welcome", ({ connectionId, participants }) => tell({ event: "welcome", connectionId, participants: participants.length }));
client.on("signal", (signal) => tell({ event: "signal", ...signal }));
client.on("closed", (closed) => tell({ event: "closed", ...closed }));
client.on("refused", (answer) => tell({ event: "refused", ...answer }));
client.on("disconnected", ({ code }) => tell({ event: "disconnected", code }));
client.on("draining", (draining) => tell({ event: "draining", ...draining }));
client.on("peers", (peers) => tell({ event: "peers", accounts: [...peers.keys()] }));

const commands = {
  connect: () => void client.connect(),
  close: () => client.close(),
  send: ({ type, data, target }) => client.send(type, data, target),
  probe: async () => tell({ event: "probed", ...(await client.probe()) }),
  ping: async () => tell({ event: "pinged", ms: await client.ping() }),
  refresh: async (command) => {
    token = command.token;
    tell({ event: "refreshed", expiresAt: await client.refreshToken() });
  },
  token: (command) => {
    token = command.token;
    client.setToken(() => token);
  },
};
createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line);
  commands[command.do](command);
});
