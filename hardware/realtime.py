"""What a process can ask of the operating system so that it runs on time."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from typing import Final

EXECUTOR_PRIORITY: Final = 50
"""SCHED_FIFO priority of the process that commands the arms."""
SIMULATOR_PRIORITY: Final = 10
"""SCHED_FIFO priority of simulated controllers, below the executor's."""
_MCL_CURRENT: Final = 1  # of Linux's mman.h
_MCL_ONFAULT: Final = 4


def request_priority(priority: int) -> bool:
    """Ask for a real-time priority (SCHED_FIFO), also for threads started later; return whether it was granted."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (OSError, AttributeError):  # AttributeError: not every system has it
        return False
    return True


def lock_memory() -> None:
    """Keep this process's pages in memory: to read one again takes longer than a tick."""
    with contextlib.suppress(AttributeError):  # not every system has it
        ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_ONFAULT)


def disable_cpu_idle() -> None:
    """Keep idle processors out of deep sleep, from which they wake too late for a tick.

    Holds while the file is open: until this process ends (Linux's PM quality of service interface).
    """
    with contextlib.suppress(OSError):
        os.write(os.open("/dev/cpu_dma_latency", os.O_WRONLY), struct.pack("i", 0))
