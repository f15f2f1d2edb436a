// Which part of a Python process valgrind counts: between start(), or zero(), and stop(label).
#include <valgrind/callgrind.h>

void start(void) {
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_ZERO_STATS;
}

void zero(void) { CALLGRIND_ZERO_STATS; }

void stop(const char *label) {
  CALLGRIND_DUMP_STATS_AT(label);
  CALLGRIND_STOP_INSTRUMENTATION;
}
