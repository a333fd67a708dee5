"""What version 0.1.0 wrote, before its modules moved, is read, and its run goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from robotest.cli.main import main
from robotest.registry import resolve
from robotest.runs import directory, episode_file, schedule
from robotest.testing import check_verifier
from robotest.types import EnvOptions
from tests.doubles.fakes import PointEnv, PointPolicy

WRITTEN = Path(__file__).parents[1] / "data" / "written_by_0.1.0"
COMMAND = [
    "eval",
    "--policy",
    "random",
    "--tasks",
    "place_block_pad,lift_tray",
    "--verifiers",
    "first,random,lowest:medoid",
]
COMMAND += ["--episodes", "2", "--seed", "2026", "--workers", "0", "--videos", "none", "--out"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.copytree(WRITTEN / "run", tmp_path / "run")
    return tmp_path / "run"


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "episodes.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_has_the_rates_that_it_was_given(run: Path) -> None:
    arguments, episodes = directory.read(run)
    summary = json.loads(json.dumps(schedule.summarise(arguments, episodes).to_json()))
    before = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert {name: summary[name] for name in before} == before


def test_a_complete_run_has_nothing_left_to_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = lines(run)
    assert main([*COMMAND, str(run)]) == 1, "one of its episodes is an error"
    assert "continuing: 12 of 12 episodes are there already" in capsys.readouterr().err
    assert lines(run) == before


@pytest.mark.slow
@pytest.mark.skipif(mujoco.__version__ != "3.3.7", reason="the run is of MuJoCo 3.3.7 and goes on with no other")
def test_an_interrupted_run_goes_on(run: Path) -> None:
    before = lines(run)
    missing = [e for e in before if (e["task"], e["index"]) == ("lift_tray", 0)]
    kept = [e for e in before if e not in missing]
    (run / "episodes.jsonl").write_text("".join(json.dumps(e) + "\n" for e in kept), encoding="utf-8")
    (run / "complete.json").unlink()
    assert main([*COMMAND, str(run)]) == 1
    assert [e for e in lines(run) if e not in missing and (e["task"], e["index"]) != ("lift_tray", 0)] == kept
    names = ("condition", "task", "index", "outcome", "steps", "decisions", "instruction")
    assert [[e[n] for n in names] for e in lines(run)] == [[e[n] for n in names] for e in before]


def test_an_episode_file_is_read(run: Path) -> None:
    recorded = episode_file.read(run / "episodes" / "random" / "lift_tray" / "00001.h5")
    (line,) = [e for e in lines(run) if (e["condition"], e["task"], e["index"]) == ("random", "lift_tray", 1)]
    assert (recorded.episode.outcome, recorded.episode.steps) == (line["outcome"], line["steps"]) == ("success", 80)
    assert recorded.actions.shape[0] == 80
    assert len(recorded.chosen) == line["decisions"]


@pytest.mark.parametrize("kind", ["cfn", "knn", "leverage"])
def test_a_verifier_file_is_read_and_scores(kind: str) -> None:
    policy = PointPolicy()
    verifier = resolve("verifier", kind)(policy.spec, WRITTEN / "verifiers" / f"{kind}.safetensors")
    env = PointEnv("near", EnvOptions(image_size=16))
    check_verifier(verifier, policy, env)
    env.reset(0, 0)
    observation = env.observe()
    scores = verifier.score(observation, policy.sample([observation], [0], 8)[0], 0)
    assert np.ptp(scores) > 0, "candidates differ and so must their scores"
