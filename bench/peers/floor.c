// Peer: how little a relay can cost here. Parses no JSON, checks nothing, one send() per delivery (floor PORT).
// A delivery is 350 bytes longer than what was sent, as the sidecar's is: envelope and sender.
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define DESCRIPTORS 20000
#define ENVELOPE 50
#define SENDER 300

typedef struct {
  int upgraded, room, size;
  uint8_t bytes[16384];
} Connection;

static Connection *connections[DESCRIPTORS];
static int *members[DESCRIPTORS], member_count[DESCRIPTORS];

static void leave(int fd, Connection *c) {
  for (int j = 0; c->upgraded && j < member_count[c->room]; j++)
    if (members[c->room][j] == fd) {
      members[c->room][j] = members[c->room][--member_count[c->room]];
      break;
    }
  close(fd);
  free(c);
}

static void upgrade(int fd, Connection *c) {
  static const char PATH[] = "GET /api/chat/realtime/00000000-0000-4000-8000-";
  static const char ANSWER[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
  if (c->size < (int)sizeof PATH || !memmem(c->bytes, c->size, "\r\n\r\n", 4))
    return;
  c->room = atoi((char *)c->bytes + sizeof PATH - 1);
  c->upgraded = 1;
  c->size = 0;
  send(fd, ANSWER, sizeof ANSWER - 1, MSG_NOSIGNAL);
  members[c->room] = realloc(members[c->room], (member_count[c->room] + 1) * sizeof(int));
  members[c->room][member_count[c->room]++] = fd;
}

static void relay(int fd, Connection *c) {
  static uint8_t out[32768];
  int start = 0;
  while (c->size - start >= 4) {
    int length = c->bytes[start + 1] & 127, header = 6;
    if (length == 126) {
      length = c->bytes[start + 2] << 8 | c->bytes[start + 3];
      header = 8;
    }
    if (c->size - start < header + length)
      break;
    uint8_t *mask = c->bytes + start + header - 4, *payload = mask + 4;
    if ((c->bytes[start] & 15) == 1) {
      int total = ENVELOPE + length + SENDER;
      out[0] = 0x81;
      out[1] = 126;
      out[2] = total >> 8;
      out[3] = total;
      memset(out + 4, ' ', ENVELOPE);
      for (int i = 0; i < length; i++)
        out[4 + ENVELOPE + i] = payload[i] ^ mask[i & 3];
      memset(out + 4 + ENVELOPE + length, 'i', SENDER);
      for (int j = 0; j < member_count[c->room]; j++)
        if (members[c->room][j] != fd)
          send(members[c->room][j], out, total + 4, MSG_NOSIGNAL);
    }
    start += header + length;
  }
  memmove(c->bytes, c->bytes + start, c->size - start);
  c->size -= start;
}

int main(int argc, char **argv) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) {
    perror("listen");
    return 1;
  }
  int poller = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[512];
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int n = epoll_wait(poller, events, 512, -1);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) {
        int accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (accepted < 0)
          continue;
        if (accepted >= DESCRIPTORS) {
          close(accepted);
          continue;
        }
        setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connections[accepted] = calloc(1, sizeof(Connection));
        event.data.fd = accepted;
        epoll_ctl(poller, EPOLL_CTL_ADD, accepted, &event);
        continue;
      }
      Connection *c = connections[fd];
      int got = recv(fd, c->bytes + c->size, sizeof c->bytes - c->size, 0);
      if (got <= 0) {
        leave(fd, c);
        continue;
      }
      c->size += got;
      if (c->upgraded)
        relay(fd, c);
      else
        upgrade(fd, c);
    }
  }
}
