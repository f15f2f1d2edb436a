// Peer: a relay as many would write it on Node's `ws` 8: every room's peers in a Set, encoded once per message.
// No authentication (node node_ws.js PORT).
const { WebSocketServer } = require('ws');
const rooms = new Map();
let count = 0;
new WebSocketServer({ host: '127.0.0.1', port: +process.argv[2], backlog: 4096, perMessageDeflate: false })
  .on('connection', (ws, request) => {
    const id = '11111111-2222-4333-8444-' + String(++count).padStart(12, '0');
    const info = { id, name: 'user' + count, nick: 'User ' + count, profile: {}, updatedAt: '2026-01-01T00:00:00Z' };
    const room = request.url.split('?')[0];
    if (!rooms.has(room)) rooms.set(room, new Set());
    const peers = rooms.get(room).add(ws);
    ws.on('error', () => {});
    ws.on('close', () => peers.delete(ws));
    ws.on('message', (text) => {
      const { type, data } = JSON.parse(text);
      const signal = { type: 'webrtc.signal', data: { type, data, senderAccountId: id, senderInfo: info } };
      const payload = Buffer.from(JSON.stringify(signal));
      for (const peer of peers) if (peer !== ws && peer.readyState === 1) peer.send(payload, { binary: false });
    });
  });
