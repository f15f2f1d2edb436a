// Ticks in a worker: a page in a hidden tab has its own timers slowed down to one a second.
setInterval(() => postMessage(0), 1000 / 15);
