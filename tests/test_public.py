"""What `import robotest` gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import robotest
from robotest.cli.main import main
from robotest.errors import RobotestError, RunDirectoryError, UnknownNameError
from robotest.registry import table
from tests.test_evaluate import config

EXAMPLE = Path(__file__).parents[1] / "examples" / "evaluate_policy.py"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("public") / "run"
    robotest.evaluate(config(path, episodes=3))
    return path


def test_every_public_name_is_there() -> None:
    assert set(robotest.__all__) <= set(dir(robotest))
    for name in robotest.__all__:
        assert getattr(robotest, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        _ = robotest.evalute


def test_importing_it_imports_nothing_heavy() -> None:
    program = "import robotest, sys; print(sorted({'numpy', 'torch', 'mujoco', 'scipy', 'h5py'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603 - ours
    assert done.stdout == "[]\n"


def test_a_run_is_read(path: Path) -> None:
    run = robotest.load_run(str(path))
    rows = run.rows()
    assert len(rows) == len(run.episodes) == sum(rate.episodes for rate in run.rates.values())
    for condition, rate in run.rates.items():
        mine = [row for row in rows if row["condition"] == condition]
        assert sum(row["success"] is True for row in mine) == rate.successes
        assert sum(row["success"] is None for row in mine) == rate.errors
    assert json.loads(json.dumps(run.summary.to_json())) == json.loads((path / "summary.json").read_text())


def test_its_pairs_are_from_the_same_starts(path: Path) -> None:
    run = robotest.load_run(path)
    a, b, *_ = run.rates
    pairs = run.pairs(a, b)
    assert len(pairs) == run.summary.comparisons[0].pairs
    assert all((x.task, x.index, x.start) == (y.task, y.index, y.start) for x, y in pairs)
    assert {(x.condition, y.condition) for x, y in pairs} == {(a, b)}
    with pytest.raises(UnknownNameError, match="rndom"):
        run.pairs(a, "rndom")


def test_what_an_episode_recorded_is_opened(path: Path) -> None:
    run = robotest.load_run(path)
    episode = run.episodes[0]
    recorded = run.recording(episode.condition, episode.task, episode.index)
    assert recorded.episode == episode
    assert np.isfinite(recorded.candidates).all()
    with pytest.raises(RobotestError, match="no episode 99"):
        run.recording(episode.condition, episode.task, 99)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="holds no run"):
        robotest.load_run(tmp_path)


def test_comparing_is_what_the_command_does(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, *_ = robotest.load_run(path).rates
    main(["compare", str(path), "--conditions", f"{b},{a}", "--tasks", "near", "--json"])
    summary = robotest.compare(path, conditions=(b, a), tasks=("near",))
    assert json.loads(json.dumps(summary.to_json())) == json.loads(capsys.readouterr().out)
    with pytest.raises(UnknownNameError, match="nearr"):
        robotest.compare(path, tasks=("nearr",))


def test_two_runs_are_compared(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    robotest.evaluate(config(other, episodes=3, policy="tests.doubles.fakes:other_policy"))
    found = robotest.compare(path, other)
    assert all(c.a.startswith("run/") and c.b.startswith("other/") for c in found.comparisons)
    assert all(c.pairs == 6 for c in found.comparisons)


def test_parts_are_made_by_name() -> None:
    env = robotest.make_env("tests.doubles.fakes:suite", "far", image_size=16)
    assert env.spec.task == "far"
    policy = robotest.load_policy("tests.doubles.fakes:policy")
    verifier = robotest.load_verifier("inverted:medoid", policy)
    env.reset(0, 0)
    observation = env.observe()
    (candidates,) = policy.sample([observation], [0], 4)
    assert verifier.score(observation, candidates, 0).shape == (4,)
    assert isinstance(robotest.load_policy("random", env.spec), robotest.Policy)
    with pytest.raises(UnknownNameError, match="imagesize"):
        robotest.make_env("tests.doubles.fakes:suite", imagesize=16)


def test_the_verifiers_of_a_registered_policy_are_found() -> None:
    assert "mini_vla" in table("policy")
    policy = robotest.load_policy("mini_vla")
    assert robotest.load_verifier("leverage", policy).spec.policy_fingerprint == policy.spec.fingerprint


@pytest.mark.slow
def test_the_example_runs_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, str(EXAMPLE), str(out)]
    first = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    assert "medoid - first: +" in first.stdout
    lines = (out / "episodes.jsonl").read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - as above
    assert (again.stdout, (out / "episodes.jsonl").read_bytes()) == (first.stdout, lines)


@pytest.mark.slow
def test_an_edited_script_is_another_run(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    source = EXAMPLE.read_text(encoding="utf-8")
    script.write_text(source, encoding="utf-8")
    command = [sys.executable, str(script), str(tmp_path / "run")]
    subprocess.run(command, capture_output=True, check=True)  # noqa: S603 - as above
    script.write_text(source.replace("< 0.3", "< 0.2"), encoding="utf-8")
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - as above
    assert done.returncode != 0
    assert "holds a run with other arguments (code:" in done.stderr
