from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robotest.clock import WallClock
from robotest.config import EvalConfig
from robotest.errors import InterruptedRunError, RobotestError
from robotest.evaluation import Progress, evaluate
from robotest.randomness import EpisodeSeeds
from robotest.runs import directory, episode_file
from robotest.runtime.pool import ATTEMPTS, WorkerPool
from robotest.runtime.rollout import Trace
from robotest.runtime.runner import EpisodeJob
from robotest.runtime.selector import VerifierSelector
from robotest.runtime.wire import Channel, DisconnectedError
from robotest.runtime.worker import Worker
from robotest.types import Candidates, EnvOptions, Observation
from tests.doubles import fakes, fragile
from tests.doubles.thorough import some
from tests.test_evaluate import TOWARDS, config, untimed

pytestmark = pytest.mark.slow


def fragile_config(out: Path, *tasks: str, **changes: Any) -> EvalConfig:
    return config(out, env="tests.doubles.fragile:suite", tasks=tasks, workers=2, **changes)


def descendants(pid: int) -> set[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return {int(line) for line in found.stdout.split()}


@pytest.fixture
def no_process_left() -> Any:
    before = descendants(os.getpid())
    yield
    assert descendants(os.getpid()) <= before


@pytest.mark.usefixtures("no_process_left")
def test_any_number_of_workers_gives_the_same_lines_states_and_candidates(tmp_path: Path) -> None:
    verifiers = ("random", "medoid", TOWARDS)
    for workers in (0, 1, 3):
        evaluate(config(tmp_path / str(workers), workers=workers, verifiers=verifiers, episodes=12))
    assert len(untimed(tmp_path / "0")) == 2 * 12 * 3
    for name in ("1", "3"):
        assert untimed(tmp_path / name) == untimed(tmp_path / "0")
    for key in directory.read_episodes(tmp_path / "0"):
        a, b = (episode_file.read(directory.episode_path(tmp_path / w, key)) for w in ("0", "3"))
        assert a.scene == b.scene
        for field in ("actions", "success", "snapshots", "decision_steps", "candidates", "scores", "chosen"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_a_worker_that_dies_is_replaced_and_its_episode_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("run", "again"):
        memory = tmp_path / f"{name}-memory"
        memory.mkdir()
        monkeypatch.setenv(fragile.MEMORY, str(memory))
        evaluate(fragile_config(tmp_path / name, "dies_once"))
        assert len(list(memory.iterdir())) == 3  # the conditions share their starts
    assert untimed(tmp_path / "run") == untimed(tmp_path / "again")
    assert all(e.outcome != "error" for e in directory.read_episodes(tmp_path / "run").values())


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("dies", "WorkerError: the worker died (SIGKILL), the last of 3 attempts"),
        ("exits", "WorkerError: the worker died (exit code 7), the last of 3 attempts"),
        (
            "hangs",
            f"WorkerError: the worker was silent for {fragile.PATIENCE_S:g} s and was ended, the last of 3 attempts",
        ),
    ],
)
@pytest.mark.usefixtures("no_process_left")
def test_an_episode_that_always_loses_its_worker_is_an_error(tmp_path: Path, task: str, says: str) -> None:
    summary = evaluate(fragile_config(tmp_path, task, "sound", episodes=1, verifiers=("first",)))
    episodes = directory.read_episodes(tmp_path)
    assert [e.outcome == "error" for e in episodes.values()] == [True, False]
    assert episodes["first", task, 0].error == says
    assert summary.conditions["first"].overall.errors == 1
    note = directory.episode_path(tmp_path, ("first", task, 0)).with_suffix(".txt")
    words = note.read_text() if note.exists() else ""
    assert {"dies": "", "exits": "no licence", "hangs": "stuck_for_ever"}[task] in words
    assert ATTEMPTS == 3


def test_an_exception_is_an_error_with_its_traceback_and_the_worker_goes_on(tmp_path: Path) -> None:
    for workers in (0, 1):
        out = tmp_path / str(workers)
        asked = fragile_config(out, "raises", "sound", episodes=1, verifiers=("first",))
        evaluate(dataclasses.replace(asked, workers=workers))
        note = directory.episode_path(out, ("first", "raises", 0)).with_suffix(".txt").read_text()
        assert "in _break" in note
        assert "ValueError: the simulation is unstable" in note
    assert untimed(tmp_path / "0") == untimed(tmp_path / "1")


def test_what_the_planner_refuses_is_the_same_error_with_workers(tmp_path: Path) -> None:
    for workers in (0, 2):
        evaluate(config(tmp_path / str(workers), workers=workers, policy="tests.doubles.fakes:broken_policy"))
    assert "non-finite action" in "".join(untimed(tmp_path / "0"))
    assert untimed(tmp_path / "2") == untimed(tmp_path / "0")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"env": "dual_arn"}, "unknown env 'dual_arn'"),
        ({"tasks": ("nea",)}, "unknown task of tests.doubles.fakes:suite 'nea'"),
        ({"setting": "messy"}, "unknown setting 'messy'"),
        ({"workers": -1}, "--workers -1 given"),
        ({"env_python": Path("/no/such/python")}, "cannot start a worker with /no/such/python"),
        ({"env_python": Path("/bin/false")}, "the worker died (exit code 1) before it began"),
    ],
)
@pytest.mark.usefixtures("no_process_left")
def test_bad_input_is_one_error_before_the_first_episode(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RobotestError) as error:
        evaluate(config(tmp_path / "run", **{"workers": 1, **changes}))
    assert says in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_worker_of_another_version_is_refused(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c \'import sys, robotest; robotest.__version__ = "0.0.1";'
        ' sys.argv = sys.argv[2:]; import robotest.runtime.worker; robotest.runtime.worker.main()\' "$@"\n'
    )
    python.chmod(0o755)
    with pytest.raises(RobotestError, match=r"has robotest 0\.0\.1, this is .*; install the same"):
        evaluate(config(tmp_path / "run", env_python=python))


@pytest.mark.usefixtures("no_process_left")
def test_an_interruption_ends_the_workers_and_keeps_what_is_done(tmp_path: Path) -> None:
    def interrupt(state: Progress) -> None:
        if state.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="3 finished episodes"):
        evaluate(config(tmp_path, workers=2), interrupt)
    evaluate(config(tmp_path, workers=2))
    evaluate(config(tmp_path / "whole"))
    assert untimed(tmp_path) == untimed(tmp_path / "whole")


class CountingPolicy(fakes.PointPolicy):
    """Counts how many observations come at a time."""

    def __init__(self, concurrent: bool) -> None:
        super().__init__()
        self._spec = dataclasses.replace(self._spec, concurrent=concurrent)
        self.batches: list[int] = []
        self.threads: set[int] = set()

    def sample(
        self, observations: Sequence[Observation], noise_seeds: Sequence[int], n_candidates: int
    ) -> list[Candidates]:
        self.batches.append(len(observations))
        self.threads.add(threading.get_ident())
        time.sleep(0.01)  # long enough for others to queue up
        return super().sample(observations, noise_seeds, n_candidates)


@pytest.mark.parametrize("concurrent", [False, True])
def test_requests_that_wait_are_one_batch_unless_the_policy_prefers_threads(concurrent: bool) -> None:
    policy = CountingPolicy(concurrent)
    verifier = fakes.TowardsVerifier(policy.spec)
    selector = VerifierSelector(policy, {"towards": verifier}, 4, WallClock())
    options = EnvOptions(image_size=16)
    work = [EpisodeJob("towards", EpisodeSeeds(0, "far", i), options, 2) for i in range(8)]
    pool = WorkerPool("tests.doubles.fakes:suite", 4)
    try:
        finished = list(pool.run(selector, work))
    finally:
        pool.close()
    assert sorted(f.episode.index for f in finished) == list(range(8))
    assert all(f.episode.outcome == "success" for f in finished)
    if concurrent:
        assert set(policy.batches) == {1}
        assert len(policy.threads) > 1
    else:
        assert max(policy.batches) > 1
        assert len(policy.threads) == 1


def test_nothing_crosses_between_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = socket.socketpair()
    channel, parent = Channel(there), Channel(here)
    crossed: list[int] = []
    step = Trace.step

    def count(self: Trace, *arguments: Any) -> None:
        crossed.append(channel.sent_bytes + channel.received_bytes)
        step(self, *arguments)

    monkeypatch.setattr(Trace, "step", count)
    worker = Worker(channel)

    def serve() -> None:
        with contextlib.closing(channel), contextlib.suppress(DisconnectedError):
            worker.serve()

    thread = threading.Thread(target=serve)
    thread.start()
    request = {
        "do": "run",
        "env": "tests.doubles.fakes:suite",
        "seeds": dataclasses.asdict(EpisodeSeeds(0, "far", 0)),
        "options": dataclasses.asdict(EnvOptions(image_size=16)),
        "execute": 5,
        "origin": None,
        "film": False,
    }
    parent.send(request)
    while (message := parent.receive(10.0))["do"] != "ended":
        if message["do"] == "ask":
            parent.send({"do": "chunk", "actions": np.zeros((6, 3), np.float32)})
    parent.close()
    thread.join()
    assert len(crossed) == 20
    assert len(set(crossed)) == 4  # four chunks of five actions


SCRIPT = """
import sys
from pathlib import Path
from robotest.evaluation import evaluate
from tests.test_evaluate import config
evaluate(config(Path(sys.argv[1]), env="tests.doubles.fragile:suite", tasks=("slow", "sound"), episodes=15,
    workers=int(sys.argv[2])))
"""


KILLS = some(("worker", "worker", "both", "both", "parent", "parent"), 2)


def test_killed_at_random_moments_a_run_ends_as_if_never_killed(tmp_path: Path) -> None:
    whole = config(
        tmp_path / "whole", env="tests.doubles.fragile:suite", tasks=("slow", "sound"), episodes=15, workers=0
    )
    evaluate(whole)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "killed"), "2"]
    rng = random.Random(2)
    killed = 0
    for kind in KILLS:
        process = subprocess.Popen(command)  # noqa: S603 - this very interpreter
        lines = tmp_path / "killed" / "episodes.jsonl"
        before = lines.read_bytes().count(b"\n") if lines.exists() else 0
        while process.poll() is None and (not lines.exists() or lines.read_bytes().count(b"\n") == before):
            time.sleep(0.01)  # until it is at work
        time.sleep(rng.uniform(0.0, 0.3))
        victims = descendants(process.pid)
        for victim in [*(victims if kind != "parent" else ()), *([process.pid] if kind != "worker" else ())]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                killed += 1
        if kind == "worker":
            time.sleep(rng.uniform(0.1, 0.3))
            process.kill()
        process.wait()
        for victim in victims:  # workers end with their parent
            deadline = time.monotonic() + 10
            while Path(f"/proc/{victim}/stat").exists() and "Z" not in Path(f"/proc/{victim}/stat").read_text().split():
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert killed >= len(KILLS)
    subprocess.run(command, check=True)  # noqa: S603 - this very interpreter
    assert untimed(tmp_path / "killed") == untimed(tmp_path / "whole")


def test_a_worker_needs_neither_torch_nor_what_else_the_parent_uses() -> None:
    heavy = ("torch", "scipy", "h5py", "rich", "tyro", "safetensors", "imageio", "gymnasium", "PIL", "threadpoolctl")
    parts = "robotest.runtime.worker, robotest.envs.dual_arm.suite"
    code = f"import sys; sys.modules.update(dict.fromkeys({heavy!r})); import {parts}"
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - this very interpreter
