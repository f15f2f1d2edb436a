// What readers of the client guide end up with: its class with the parts of sections 2.3, 3.2 and 3.3 put together,
// reading the fields and sending the shapes that it does. Nothing in it knows of this sidecar.
// The lines after the class let a test drive it: commands come in, what its handlers were given goes out.

import { createInterface } from "node:readline";

class SignalingClient {
  constructor(chatId, serverUrl, userId) {
    this.chatId = chatId;
    this.serverUrl = serverUrl;
    this.userId = userId;
    this.isConnected = false;
    this.connectedPeers = new Map();
    this.handlers = [];
  }

  connect() {
    this.ws = new WebSocket(`${this.serverUrl}/api/chat/realtime/${this.chatId}`);
    this.ws.onopen = () => (this.isConnected = true);
    this.ws.onclose = () => (this.isConnected = false);
    this.ws.onmessage = ({ data }) => this.handleMessage(data);
  }

  handleMessage(message) {
    const packet = JSON.parse(message);
    if (packet.type === "signaling") {
      const { SenderAccountId, SenderInfo } = packet.data;
      if (!this.connectedPeers.has(SenderAccountId)) this.connectedPeers.set(SenderAccountId, SenderInfo);
      if (SenderAccountId === this.userId) return;
      for (const handler of this.handlers) handler(packet.data, SenderAccountId, SenderInfo);
    } else if (packet.type === "webrtc") {
      tell({ event: "server message", message: packet.data.message });
    } else {
      tell({ event: "unknown packet", type: packet.type });
    }
  }

  onMessage(handler) {
    this.handlers.push(handler);
  }

  sendMessage(message) {
    if (!this.isConnected || this.ws.readyState !== WebSocket.OPEN) return false;
    this.ws.send(JSON.stringify(message));
    return true;
  }
}

function tell(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

const [chatId, serverUrl, userId] = process.argv.slice(2);
const client = new SignalingClient(chatId, serverUrl, userId);
client.onMessage((message, senderId, senderInfo) =>
  tell({
    event: "message", type: message.type, data: message.data, senderId,
    senderConnectionId: message.SenderConnectionId, nick: senderInfo.nick, peers: client.connectedPeers.size,
  }));
client.connect();
createInterface({ input: process.stdin }).on("line", (line) => client.sendMessage(JSON.parse(line)));
