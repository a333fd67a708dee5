"""The shipped policy with its verifiers in the real simulator: results depend on the arguments alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from robotest.config import EvalConfig
from robotest.evaluation import evaluate
from robotest.policies import mini_vla
from robotest.runs import episode_file

pytestmark = pytest.mark.slow
CONDITIONS = ("random", "cfn", "leverage")


def lines(config: EvalConfig) -> list[str]:
    """Run, and return the lines of ``episodes.jsonl`` without their times."""
    evaluate(config)
    records = [json.loads(line) for line in (config.directory / "episodes.jsonl").read_text().splitlines()]
    return [json.dumps({k: v for k, v in record.items() if k != "time"}) for record in records]


def assert_same_recordings(one: Path, other: Path) -> None:
    """Every bit of states, actions, candidates and scores."""
    files = sorted(one.rglob("*.h5"))
    assert files
    for file in files:
        a, b = episode_file.read(file), episode_file.read(other / file.relative_to(one))
        for field in ("actions", "success", "snapshots", "decision_steps", "candidates", "scores", "chosen"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EvalConfig:
    out = tmp_path_factory.mktemp("shipped") / "whole"
    return EvalConfig(out, verifiers=CONDITIONS, tasks=("lift_tray", "place_block_pad"), episodes=2, workers=0)


@pytest.fixture(scope="module")
def whole(config: EvalConfig) -> list[str]:
    return lines(config)


def test_the_same_command_gives_the_same_lines_on_any_number_of_threads_and_workers(
    config: EvalConfig, whole: list[str], tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    try:
        for workers in (0, 2):
            assert lines(dataclasses.replace(config, out=tmp_path / str(workers), workers=workers)) == whole
            assert_same_recordings(config.directory, tmp_path / str(workers))
    finally:
        torch.set_num_threads(before)


def test_conditions_in_another_order_or_alone_give_the_same_episodes(
    config: EvalConfig, whole: list[str], tmp_path: Path
) -> None:
    one_task = dataclasses.replace(config, tasks=("lift_tray",), out=tmp_path / "r", verifiers=CONDITIONS[::-1])
    expected = [line for line in whole if json.loads(line)["task"] == "lift_tray"]
    assert sorted(lines(one_task)) == sorted(expected)
    alone = lines(dataclasses.replace(one_task, out=tmp_path / "alone", verifiers=("leverage",)))
    assert alone == [line for line in expected if json.loads(line)["condition"] == "leverage"]


def test_more_episodes_continue_the_run(config: EvalConfig, whole: list[str], tmp_path: Path) -> None:
    """With one worker; none and two are tried above."""
    few = dataclasses.replace(config, tasks=("lift_tray",), out=tmp_path, episodes=1, workers=1)
    kept = lines(few)
    assert set(kept) < set(whole)
    assert set(lines(dataclasses.replace(few, episodes=2))) == {line for line in whole if "lift_tray" in line}
    assert_same_recordings(tmp_path, config.directory)


def test_conditions_choose_differently(whole: list[str]) -> None:
    records = [json.loads(line) for line in whole]
    chosen = {(r["task"], r["index"], r["condition"]): r["chosen"] for r in records}
    for verifier in ("cfn", "leverage"):
        assert any(chosen[t, i, verifier] != chosen[t, i, "random"] for t, i, _ in chosen)


@pytest.mark.usefixtures("whole")
def test_a_session_says_in_which_arithmetic_the_policy_acted(config: EvalConfig) -> None:
    sessions = json.loads((config.directory / "run.json").read_text())["sessions"]
    assert [session["precision"] for session in sessions] == ["bfloat16" if mini_vla.HAS_BF16 else "float32"]
