"""gRPC's threads, which begin with the first channel of a process: they leave the core to the loop while it works."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def patient() -> Iterator[None]:
    """What threads begin in here, and those they begin, do not interrupt another thread when they wake.

    One answer wakes several of gRPC's threads, one after the other. Where they share a core with the loop, the kernel
    stops it for each of them. As SCHED_BATCH (sched(7)) they have the same share of the core, once the loop waits or
    its slice is over; on a core of their own they wait for nothing. Where the system knows or allows no such thing, and
    where somebody scheduled all of this process otherwise, they are left alone.
    """
    try:
        ours = os.sched_getscheduler(0) == os.SCHED_OTHER  # of this thread, from which new ones have it
        if ours:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except (AttributeError, OSError):
        ours = False
    try:
        yield
    finally:
        if ours:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
