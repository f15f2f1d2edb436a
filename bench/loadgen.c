// loadgen: an epoll WebSocket load generator, one thread, no JSON. Prints one line of JSON.
//
//   loadgen MODE port=P pid=SERVER_PID paths=FILE rooms=R size=N [win=W] [rate=MSGS/s] [bytes=B] [warm=S] [dur=S]
//           [conc=C] [passes=K] [to=1] [slow=K] [first=1]
//
//   sat     closed loop: W messages under way per room; server CPU seconds per million deliveries
//   lat     open loop at `rate` messages a second: latency percentiles. A message's clock starts when it was due, not
//           when it was sent, so that a server (or generator) that falls behind shows it
//   grow    open loop, said by the first 10, 100, 1,000 … and all rooms, after everybody spoke once: `dur` for each, in
//           ten turns, so that what the machine does hits all of them. CPU seconds per million deliveries, and TCP
//           segments a delivery, of each without the upkeep of the connections, which are the same ones throughout, and
//           that upkeep by itself
//   idle    connections that say nothing: RSS per connection, CPU of keeping them
//   accept  `passes` times: open all, `conc` at a time, then close all; accepts a second for each pass
//
//   paths   line i is "REQUEST_TARGET ACCOUNT" of connection i, which is in room i / size
//   to=1    each message is addressed to the next connection's account: one delivery instead of size - 1
//   slow=K  K more connections in room 0, which never read and never speak; their lines stand at the end of `paths`
//   first=1 the latencies of room 0 alone
//
// The server's CPU time (all threads) and RSS are read from /proc. A packet {"type":"error",...} or a close by the
// server spoils a run: it is counted in "refused", or ends the run with status 3.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CAPTURED 512     // of a 101's head
#define STAMPED 160      // of a message's beginning: the stamp stands in it
#define HISTOGRAM 2000000 // microseconds

typedef struct {
  int fd, room, upgraded;
  uint8_t header[16];
  int header_size, opcode, captured;
  uint64_t left; // of the frame's payload
  char capture[CAPTURED];
  uint8_t *unsent; // what the kernel did not take: others are read meanwhile
  int unsent_size, unsent_room;
} Connection;

typedef struct {
  int first, next;
  long awaited; // deliveries of messages under way
} Room;

static Connection *connections;
static Room *rooms;
static int room_count = 1, room_size = 2, window = 2, port, pid, message_bytes = 1024, concurrency = 50, passes = 1;
static int directed, stalled, first_room_only, stalled_closed;
static double warm_seconds = 1, seconds = 4, rate;
static const double UPKEEP_SECONDS = 4;
static const int TURNS = 10;
#define STEPS 8 // of a growing load
static char **targets, **accounts;
static int target_count;
static int poller;
static uint8_t *frame;
static int frame_size, header_size, stamp_at, account_at = -1;
static const uint8_t MASK[4] = {0x12, 0x34, 0x56, 0x78};
static uint64_t sent, delivered, refused;
static int measuring, saturating, stamping;
static uint32_t *histogram;
static uint64_t stamped;
static double slowest_us;
static uint64_t read_at; // when what is being looked at was read

static void fail(const char *what) {
  perror(what);
  exit(2);
}

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void read_paths(const char *file) {
  FILE *in = fopen(file, "r");
  if (!in)
    fail(file);
  char line[9000];
  while (fgets(line, sizeof line, in)) {
    char *target = strtok(line, " \n"), *account = strtok(NULL, " \n");
    if (!target || !account)
      continue;
    targets = realloc(targets, (target_count + 1) * sizeof *targets);
    accounts = realloc(accounts, (target_count + 1) * sizeof *accounts);
    targets[target_count] = strdup(target);
    accounts[target_count++] = strdup(account);
  }
  fclose(in);
}

// What the kernel says of the server and of us

static double server_cpu(void) {
  char path[300];
  snprintf(path, sizeof path, "/proc/%d/task", pid);
  DIR *tasks = opendir(path);
  if (!tasks)
    return 0;
  double total = 0;
  struct dirent *entry;
  while ((entry = readdir(tasks))) {
    if (entry->d_name[0] == '.')
      continue;
    snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, entry->d_name);
    FILE *in = fopen(path, "r");
    unsigned long long nanoseconds = 0;
    if (in && fscanf(in, "%llu", &nanoseconds) == 1)
      total += nanoseconds / 1e9;
    if (in)
      fclose(in);
  }
  closedir(tasks);
  return total;
}

static long server_memory_kb(const char *format) {
  char path[64], line[256];
  snprintf(path, sizeof path, "/proc/%d/status", pid);
  FILE *in = fopen(path, "r");
  long kb = 0;
  while (in && fgets(line, sizeof line, in))
    if (sscanf(line, format, &kb) == 1)
      break;
  if (in)
    fclose(in);
  return kb;
}

static long server_rss_kb(void) { return server_memory_kb("VmRSS: %ld"); }

// Sent by anybody in this network namespace, acknowledgements among them: loopback's are the load's and the server's
static double tcp_segments(void) {
  char line[512];
  FILE *in = fopen("/proc/net/snmp", "r");
  double segments = 0;
  while (in && fgets(line, sizeof line, in))
    if (sscanf(line, "Tcp: %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %lf", &segments) == 1)
      break;
  if (in)
    fclose(in);
  return segments;
}

static double own_cpu(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

// The message: an offer whose SDP fills it up to `bytes`, with room for a time stamp and, directed, an account

static void build_message(void) {
  static const char LINES[] =
      "a=rtpmap:111 opus/48000/2\\r\\na=fmtp:111 minptime=10;useinbandfec=1\\r\\na=rtcp-fb:111 transport-cc\\r\\n"
      "a=candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx\\r\\n";
  char *text = malloc(message_bytes + 512);
  int size = 0;
  if (directed) {
    size = sprintf(text, "{\"to\":\"00000000-0000-4000-8000-000000000000\",");
    account_at = 7;
  } else
    text[size++] = '{';
  size += sprintf(text + size, "\"type\":\"offer\",\"data\":{\"ts\":\"TS0x%016x\",\"type\":\"offer\",\"sdp\":\"v=0\\r\\n", 0);
  for (int i = 0; size < message_bytes - 3; i++) {
    char c = LINES[i % (sizeof LINES - 1)];
    if (c == '\\' && size + 2 > message_bytes - 3)
      c = 'x'; // no escape cut in two
    text[size++] = c;
    if (c == '\\')
      text[size++] = LINES[++i % (sizeof LINES - 1)];
  }
  size += sprintf(text + size, "\"}}");
  stamp_at = (int)((char *)memmem(text, size, "TS0x", 4) - text) + 4;
  frame = malloc(size + 16);
  frame[0] = 0x81;
  header_size = 2;
  if (size < 126)
    frame[1] = 0x80 | size;
  else if (size < 65536) {
    frame[1] = 0x80 | 126;
    frame[2] = size >> 8;
    frame[3] = size & 255;
    header_size = 4;
  } else {
    frame[1] = 0x80 | 127;
    for (int i = 0; i < 8; i++)
      frame[2 + i] = ((uint64_t)size >> (56 - 8 * i)) & 255;
    header_size = 10;
  }
  memcpy(frame + header_size, MASK, 4);
  header_size += 4;
  for (int i = 0; i < size; i++)
    frame[header_size + i] = text[i] ^ MASK[i & 3];
  frame_size = header_size + size;
  free(text);
}

static void write_into_message(int at, const char *text, int size) {
  for (int i = 0; i < size; i++)
    frame[header_size + at + i] = text[i] ^ MASK[(at + i) & 3];
}

static void watch(Connection *c, int operation, uint32_t events) {
  struct epoll_event event = {.events = events, .data.u32 = c - connections};
  epoll_ctl(poller, operation, c->fd, &event);
}

static int send_now(Connection *c, const uint8_t *bytes, int size) {
  int n = send(c->fd, bytes, size, MSG_NOSIGNAL);
  if (n < 0 && errno != EAGAIN)
    fail("send");
  return n < 0 ? 0 : n;
}

static void send_all(Connection *c, const uint8_t *bytes, int size) {
  if (!c->unsent_size) {
    int n = send_now(c, bytes, size);
    if (n == size)
      return;
    bytes += n;
    size -= n;
    watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
  }
  if (c->unsent_size + size > c->unsent_room)
    c->unsent = realloc(c->unsent, c->unsent_room = 2 * (c->unsent_size + size));
  memcpy(c->unsent + c->unsent_size, bytes, size);
  c->unsent_size += size;
}

static void send_rest(Connection *c) {
  int n = send_now(c, c->unsent, c->unsent_size);
  memmove(c->unsent, c->unsent + n, c->unsent_size -= n);
  if (!c->unsent_size)
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static int is_stalled(Connection *c) { return c - connections >= room_count * room_size; }

static void fire(Room *room, uint64_t due) {
  int sender = room->first + room->next;
  room->next = (room->next + 1) % room_size;
  if (stamping) {
    char stamp[20];
    sprintf(stamp, "%016lx", (unsigned long)due);
    write_into_message(stamp_at, stamp, 16);
  }
  if (directed)
    write_into_message(account_at, accounts[room->first + room->next], 36);
  send_all(&connections[sender], frame, frame_size);
  room->awaited += directed ? 1 : room_size - 1;
  sent++;
}

static void keep_window_full(Room *room) {
  long per_message = directed ? 1 : room_size - 1;
  while (room->awaited <= (window - 1) * per_message)
    fire(room, 0);
}

// What comes back

static void on_message(Connection *c) {
  if (c->opcode == 1 || c->opcode == 2) {
    if (is_stalled(c))
      return;
    if (c->captured >= 15 && !memcmp(c->capture, "{\"type\":\"error\"", 15)) {
      if (!refused++)
        fprintf(stderr, "refused: %.*s\n", c->captured, c->capture);
      return;
    }
    Room *room = &rooms[c->room];
    delivered++;
    room->awaited--;
    if (stamping && measuring && !(first_room_only && c->room)) {
      char *stamp = memmem(c->capture, c->captured, "TS0x", 4);
      if (stamp && stamp + 20 <= c->capture + c->captured) {
        char digits[17] = {0};
        memcpy(digits, stamp + 4, 16);
        double us = ((double)read_at - (double)strtoull(digits, NULL, 16)) / 1e3;
        if (us < 0)
          us = 0;
        histogram[us < HISTOGRAM ? (int)us : HISTOGRAM - 1]++;
        stamped++;
        if (us > slowest_us)
          slowest_us = us;
      }
    }
    if (saturating)
      keep_window_full(room);
  } else if (c->opcode == 8 && is_stalled(c)) {
    stalled_closed++;
  } else if (c->opcode == 8) {
    fprintf(stderr, "closed by the server: %.*s\n", c->captured > 2 ? c->captured - 2 : 0, c->capture + 2);
    exit(3);
  } else if (c->opcode == 9) {
    uint8_t pong[140] = {0x8a, 0x80 | c->captured};
    memcpy(pong + 6, c->capture, c->captured);
    send_all(c, pong, 6 + c->captured);
  }
}

static void feed(Connection *c, const uint8_t *bytes, int size) {
  while (size > 0) {
    if (!c->left) {
      c->header[c->header_size++] = *bytes++;
      size--;
      if (c->header_size < 2)
        continue;
      int length = c->header[1] & 127;
      int need = length == 126 ? 4 : length == 127 ? 10 : 2;
      if (c->header_size < need)
        continue;
      uint64_t payload = length;
      if (need > 2) {
        payload = 0;
        for (int i = 2; i < need; i++)
          payload = payload << 8 | c->header[i];
      }
      c->opcode = c->header[0] & 15;
      c->header_size = c->captured = 0;
      c->left = payload;
      if (!payload)
        on_message(c);
      continue;
    }
    int taken = size < (int)c->left ? size : (int)c->left;
    int wanted = c->opcode >= 8 ? 125 : stamping ? STAMPED : 64;
    if (c->captured < wanted) {
      int kept = wanted - c->captured < taken ? wanted - c->captured : taken;
      memcpy(c->capture + c->captured, bytes, kept);
      c->captured += kept;
    }
    c->left -= taken;
    bytes += taken;
    size -= taken;
    if (!c->left)
      on_message(c);
  }
}

static void open_connection(int i) {
  Connection *c = &connections[i];
  free(c->unsent);
  memset(c, 0, sizeof *c);
  c->room = i < room_count * room_size ? i / room_size : 0;
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (c->fd < 0 || connect(c->fd, (void *)&address, sizeof address) < 0)
    fail("connect");
  int one = 1;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct linger reset = {1, 0}; // no TIME_WAIT: ports would run out
  setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
  char request[10000];
  int size = snprintf(
      request, sizeof request,
      "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n"
      "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36\r\n"
      "Upgrade: websocket\r\nOrigin: https://example.org\r\nSec-WebSocket-Version: 13\r\n"
      "Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-US,en;q=0.9\r\n"
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
      targets[i], port);
  watch(c, EPOLL_CTL_ADD, EPOLLIN);
  send_all(c, (uint8_t *)request, size);
}

// 1 when this read completed the upgrade
static int read_connection(Connection *c) {
  static uint8_t buffer[1 << 20];
  int size = recv(c->fd, buffer, sizeof buffer, 0);
  if (size < 0 && errno == EAGAIN)
    return 0;
  if (size <= 0 && c->upgraded && is_stalled(c)) { // cut without a word
    stalled_closed += c->opcode != 8;
    watch(c, EPOLL_CTL_DEL, 0);
    return 0;
  }
  if (size <= 0) {
    fprintf(stderr, "connection lost: %s\n", size ? strerror(errno) : "end of file");
    exit(3);
  }
  if (c->upgraded) {
    read_at = now();
    feed(c, buffer, size);
    return 0;
  }
  int before = c->captured, kept = CAPTURED - before < size ? CAPTURED - before : size;
  memcpy(c->capture + before, buffer, kept);
  c->captured += kept;
  char *end = memmem(c->capture, c->captured, "\r\n\r\n", 4);
  if (!end)
    return 0;
  if (memcmp(c->capture, "HTTP/1.1 101", 12)) {
    fprintf(stderr, "handshake refused: %.*s\n", c->captured, c->capture);
    exit(4);
  }
  int used = (int)(end + 4 - c->capture) - before;
  c->upgraded = 1;
  c->captured = 0;
  feed(c, buffer + used, size - used);
  return 1;
}

static int read_ready(int timeout_ms) {
  static struct epoll_event events[1024];
  int upgraded = 0, n = epoll_wait(poller, events, 1024, timeout_ms);
  for (int i = 0; i < n; i++) {
    Connection *c = &connections[events[i].data.u32];
    if (events[i].events & EPOLLOUT)
      send_rest(c);
    if (events[i].events & ~EPOLLOUT)
      upgraded += read_connection(c);
  }
  return n > 0 ? upgraded : -1;
}

static void read_for(double time) {
  for (uint64_t end = now() + (uint64_t)(time * 1e9); now() < end;)
    read_ready(20);
}

static void open_all(int count) {
  int opened = 0, done = 0;
  while (opened < count && opened < concurrency)
    open_connection(opened++);
  while (done < count) {
    int upgraded = read_ready(10000);
    if (upgraded < 0) {
      fprintf(stderr, "no handshake answered for 10 s, %d of %d done\n", done, count);
      exit(5);
    }
    done += upgraded;
    while (upgraded-- > 0 && opened < count)
      open_connection(opened++);
  }
}

static void close_all(int count) {
  for (int i = 0; i < count; i++)
    close(connections[i].fd);
}

// Until the server has nothing left to do: it spent less than 2 % of a core for half a second, or 3 s went by (what it
// spends then is the upkeep of its connections)
static void settle(void) {
  for (int i = 0; i < 6; i++) {
    double before = server_cpu();
    read_for(0.5);
    if (server_cpu() - before < 0.01)
      return;
  }
}

static void run_accept(int count) {
  printf("{\"mode\":\"accept\",\"connections\":%d,\"accepts_per_s\":[", count);
  double cpu_us[16];
  for (int pass = 0; pass < passes && pass < 16; pass++) {
    double cpu = server_cpu();
    uint64_t begun = now();
    open_all(count);
    double took = (now() - begun) / 1e9;
    cpu_us[pass] = (server_cpu() - cpu) / count * 1e6;
    printf("%s%.0f", pass ? "," : "", count / took);
    fflush(stdout);
    read_for(0.3);
    close_all(count);
    if (pass + 1 < passes)
      settle();
  }
  printf("],\"cpu_us_per_accept\":[");
  for (int pass = 0; pass < passes && pass < 16; pass++)
    printf("%s%.1f", pass ? "," : "", cpu_us[pass]);
  printf("]}\n");
}

static void run_idle(int count) {
  long before = server_rss_kb();
  double cpu = server_cpu();
  uint64_t begun = now();
  open_all(count);
  double took = (now() - begun) / 1e9;
  double accept_cpu = server_cpu() - cpu;
  settle();
  long idle = server_rss_kb();
  cpu = server_cpu();
  read_for(seconds);
  double idle_cpu = (server_cpu() - cpu) / seconds;
  for (int r = 0; r < room_count; r++) {
    fire(&rooms[r], 0);
    if (r % 64 == 0)
      read_ready(0);
  }
  read_for(2);
  long talked = server_rss_kb();
  printf("{\"mode\":\"idle\",\"connections\":%d,\"accepts_per_s\":%.0f,\"cpu_us_per_accept\":%.1f,\"kb_per_connection\":%.2f,"
         "\"kb_per_connection_after_message\":%.2f,\"rss_before_mb\":%.1f,\"rss_mb\":%.1f,\"idle_cpu\":%.4f,\"refused\":%lu}\n",
         count, count / took, accept_cpu / count * 1e6, (idle - before) / (double)count, (talked - before) / (double)count,
         before / 1024.0, idle / 1024.0, idle_cpu, (unsigned long)refused);
}

typedef struct {
  double seconds, server_cpu, own_cpu, deliveries, sent, segments;
} Load;

static Load so_far(void) { return (Load){now() / 1e9, server_cpu(), own_cpu(), delivered, sent, tcp_segments()}; }

static Load since(Load then) {
  Load l = so_far();
  return (Load){l.seconds - then.seconds, l.server_cpu - then.server_cpu, l.own_cpu - then.own_cpu,
                l.deliveries - then.deliveries, l.sent - then.sent, l.segments - then.segments};
}

static void add(Load *sum, Load more) {
  sum->seconds += more.seconds;
  sum->server_cpu += more.server_cpu;
  sum->own_cpu += more.own_cpu;
  sum->deliveries += more.deliveries;
  sum->sent += more.sent;
  sum->segments += more.segments;
}

static double each(Load l) { return l.deliveries ? l.deliveries : 1; }

// What the connections cost that say nothing
static Load upkeep(void) {
  Load before = so_far();
  read_for(UPKEEP_SECONDS);
  return since(before);
}

// What a first message leaves behind is there before anything is measured
static void everybody_speaks_once(int count) {
  uint64_t begun = now();
  for (int spoke = 0; spoke < count; read_ready(0))
    for (; spoke < count && now() >= begun + (uint64_t)(spoke * 1e9 / rate); spoke++)
      fire(&rooms[spoke % room_count], 0);
}

// The first `speaking` rooms in turn, for the warm-up and the measured time
static Load load(int speaking, double warm, double time) {
  measuring = 0;
  uint64_t begun = now(), measured_from = begun + (uint64_t)(warm * 1e9);
  uint64_t end = measured_from + (uint64_t)(time * 1e9), due = begun, fired = 0;
  Load before = so_far();
  for (int r = 0; saturating && r < room_count; r++)
    keep_window_full(&rooms[r]);
  for (uint64_t t; (t = now()) < end;) {
    if (!measuring && t >= measured_from) {
      measuring = 1;
      before = so_far();
    }
    for (int burst = 0; stamping && t >= due && burst < 64; burst++) {
      fire(&rooms[fired % speaking], due);
      due = begun + (uint64_t)(++fired * 1e9 / rate);
    }
    read_ready(stamping ? 0 : 100);
  }
  return since(before);
}

static void run_load(int count) {
  open_all(count);
  settle(); // the welcomes and user-joined are read before the clock starts
  for (int i = count - stalled; i < count; i++)
    watch(&connections[i], EPOLL_CTL_DEL, 0);
  for (int r = 0; r < room_count; r++)
    rooms[r].awaited = 0;
  stamping = rate > 0;
  saturating = !stamping;
  Load done = load(room_count, warm_seconds, seconds);
  long peak = server_memory_kb("VmHWM: %ld");
  for (int i = count - stalled; i < count; i++) // what became of those who did not read
    watch(&connections[i], EPOLL_CTL_ADD, EPOLLIN);
  if (stalled)
    read_for(1);
  static const double QUANTILES[] = {0.5, 0.99, 0.999};
  double us[3] = {0};
  uint64_t seen = 0;
  for (int i = 0, q = 0; i < HISTOGRAM && q < 3; i++)
    for (seen += histogram[i]; q < 3 && stamped && seen >= stamped * QUANTILES[q]; q++)
      us[q] = i + 1;
  printf("{\"mode\":\"%s\",\"rooms\":%d,\"size\":%d,\"bytes\":%d,\"deliveries_per_s\":%.0f,\"sent_per_s\":%.0f,\"server_cpu\":%.3f,"
         "\"generator_cpu\":%.3f,\"cpu_s_per_million\":%.3f,\"p50_us\":%.0f,\"p99_us\":%.0f,\"p999_us\":%.0f,"
         "\"max_us\":%.0f,\"peak_mb\":%.1f,\"stalled_closed\":%d,\"refused\":%lu}\n",
         stamping ? "lat" : "sat", room_count, room_size, message_bytes, done.deliveries / done.seconds, done.sent / done.seconds,
         done.server_cpu / done.seconds, done.own_cpu / done.seconds, done.deliveries ? done.server_cpu / done.deliveries * 1e6 : 0,
         us[0], us[1], us[2], slowest_us, peak / 1024.0, stalled_closed, (unsigned long)refused);
}

static void run_grow(int count) {
  open_all(count);
  settle();
  everybody_speaks_once(count);
  settle();
  Load idle = upkeep(), steps[STEPS] = {0};
  int speaking[STEPS], step_count = 0;
  for (int n = 10; n < room_count && step_count < STEPS - 1; n *= 10)
    speaking[step_count++] = n;
  speaking[step_count++] = room_count;
  stamping = 1;
  for (int turn = 0; turn < TURNS; turn++)
    for (int i = 0; i < step_count; i++)
      add(&steps[i], load(speaking[i], warm_seconds / TURNS, seconds / TURNS));
  int behind = 0; // steps that were not borne
  printf("{\"mode\":\"grow\",\"connections\":%d,\"size\":%d,\"idle_cpu\":%.4f,\"cpu_s_per_million\":[", count, room_size,
         idle.server_cpu / idle.seconds);
  for (int i = 0; i < step_count; i++)
    printf("%s%.3f", i ? "," : "", (steps[i].server_cpu - idle.server_cpu * steps[i].seconds / idle.seconds) / each(steps[i]) * 1e6);
  printf("],\"segments_per_delivery\":[");
  for (int i = 0; i < step_count; i++)
    printf("%s%.3f", i ? "," : "", (steps[i].segments - idle.segments * steps[i].seconds / idle.seconds) / each(steps[i]));
  printf("],\"deliveries_per_s\":[");
  for (int i = 0; i < step_count; i++) {
    printf("%s%.0f", i ? "," : "", steps[i].deliveries / steps[i].seconds);
    behind += steps[i].deliveries < 0.9 * rate * (room_size - 1) * steps[i].seconds;
  }
  printf("],\"behind\":%d,\"refused\":%lu}\n", behind, (unsigned long)refused);
}

int main(int argc, char **argv) {
  for (int i = 2; i < argc; i++) {
    char *key = argv[i], *value = strchr(key, '=');
    if (!value) {
      fprintf(stderr, "not key=value: %s\n", key);
      return 2;
    }
    *value++ = 0;
#define INT(name, variable) else if (!strcmp(key, name)) variable = atoi(value)
#define REAL(name, variable) else if (!strcmp(key, name)) variable = atof(value)
    if (!strcmp(key, "paths"))
      read_paths(value);
    INT("port", port);
    INT("pid", pid);
    INT("rooms", room_count);
    INT("size", room_size);
    INT("win", window);
    INT("bytes", message_bytes);
    INT("conc", concurrency);
    INT("passes", passes);
    INT("to", directed);
    INT("slow", stalled);
    INT("first", first_room_only);
    REAL("warm", warm_seconds);
    REAL("dur", seconds);
    REAL("rate", rate);
    else {
      fprintf(stderr, "unknown: %s\n", key);
      return 2;
    }
  }
  int count = room_count * room_size + stalled;
  if (argc < 2 || target_count < count) {
    fprintf(stderr, "the paths file has %d lines, %d are needed\n", target_count, count);
    return 2;
  }
  build_message();
  connections = calloc(count, sizeof *connections);
  rooms = calloc(room_count, sizeof *rooms);
  histogram = calloc(HISTOGRAM, sizeof *histogram);
  for (int r = 0; r < room_count; r++)
    rooms[r].first = r * room_size;
  poller = epoll_create1(0);
  if (!strcmp(argv[1], "accept"))
    run_accept(count);
  else if (!strcmp(argv[1], "idle"))
    run_idle(count);
  else if (!strcmp(argv[1], "grow"))
    run_grow(count);
  else if (!strcmp(argv[1], "sat") || !strcmp(argv[1], "lat"))
    run_load(count);
  else
    return 2;
  return 0;
}
