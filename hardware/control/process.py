"""The executor's process: ``python -m robotest.hardware.control.process DESCRIPTOR``.

`robotest.hardware.control.client` starts it. It has a process to itself because other threads would delay its ticks,
and it outlives the rollout's process for as long as it takes to stop the arms.

The descriptor is one end of a pair of packet sockets; each packet is one message of `robotest.runtime.wire`. The first
is an `Opening`, answered by a `Greeting` or a `refusal`. From then on the process takes requests
(`robotest.hardware.control.messages`) and sends a `Status` at every tick, or drops it if nobody reads.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from typing import Final, NoReturn

from robotest.clock import WallClock
from robotest.embodiment.collision import Twin
from robotest.errors import RobotestError
from robotest.hardware import realtime
from robotest.hardware.control.black_box import BlackBox
from robotest.hardware.control.executor import Executor, Watchdogs
from robotest.hardware.control.governor import TICK_S, Governor
from robotest.hardware.control.messages import PACKET_BYTES, Greeting, Opening, refusal
from robotest.hardware.control.station import PeerProcess, Station
from robotest.registry import resolve
from robotest.runtime import wire

_BEATS_ONLY_S: Final = 0.12  # heartbeat limit where the system does not tell whether a process is stopped


def main() -> None:
    """Open the robot of the first packet, answer, and tick."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the rollout, which then sends a stop
    connection = socket.socket(fileno=int(sys.argv[1]))
    opening = Opening.from_message(wire.unpack(connection.recv(PACKET_BYTES)))
    prioritized = opening.realtime and realtime.request_priority(realtime.EXECUTOR_PRIORITY)
    clock = WallClock()
    try:
        robot = resolve("robot", opening.robot)(opening.config)
        box = BlackBox(opening.black_box)
        robot.connect()
        governor = Governor(robot.limits, Twin(opening.table_z), TICK_S, robot.capabilities.resolution)
    except Exception as error:  # noqa: BLE001 - whatever a driver raises goes to the rollout in one line
        text = str(error) if isinstance(error, RobotestError) else f"{type(error).__name__}: {error}"
        connection.send(wire.pack(refusal(text)))
        _exit()
    rollout = PeerProcess(os.getppid())
    watchdogs = Watchdogs() if rollout.known else Watchdogs(heartbeat=_BEATS_ONLY_S)
    station = Station(Executor(robot, governor, box, clock, watchdogs), connection, clock, rollout)
    signal.signal(signal.SIGTERM, station.end)
    connection.send(wire.pack(Greeting(prioritized, robot.capabilities).to_message()))
    gc.collect()
    gc.freeze()
    if opening.realtime:  # granted or not
        realtime.lock_memory()
        realtime.disable_cpu_idle()
    station.serve()
    robot.disconnect()
    box.close()
    _exit()


def _exit() -> NoReturn:
    """Exit without the SDK's exit handlers, which may wait for controllers that do not answer."""
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
