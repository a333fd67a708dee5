import dataclasses
from pathlib import Path

import pytest

from robotest.config import EvalConfig
from robotest.evaluation import evaluate
from robotest.runs import up_to_date


@pytest.fixture
def config(tmp_path: Path) -> EvalConfig:
    """A completed run with a verifier from a file."""
    file = tmp_path / "up.txt"
    file.write_text("1.0")
    config = EvalConfig(
        out=tmp_path / "run",
        env="tests.doubles.fakes:suite",
        policy="tests.doubles.fakes:policy",
        verifiers=("random", f"tests.doubles.fakes:from_file={file}"),
        episodes=2,
        execute="all",
        workers=0,
    )
    up_to_date.write(config, evaluate(config))
    return config


def test_the_same_question_has_the_same_answer(config: EvalConfig) -> None:
    assert up_to_date.read(config) == evaluate(config)


@pytest.mark.parametrize(
    "change", [{"episodes": 3}, {"seed": 1}, {"candidates": 4}, {"verifiers": ("random",)}, {"tasks": ("near",)}]
)
def test_another_question_is_not_answered(config: EvalConfig, change: dict[str, object]) -> None:
    assert up_to_date.read(dataclasses.replace(config, **change)) is None  # type: ignore[arg-type]


def test_another_file_is_another_question(config: EvalConfig) -> None:
    assert config.verifiers is not None
    Path(config.verifiers[1].partition("=")[2]).write_text("-1.0")
    assert up_to_date.read(config) is None


def test_a_lost_episode_is_noticed(config: EvalConfig) -> None:
    lines = config.directory / "episodes.jsonl"
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:-1]))
    assert up_to_date.read(config) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"conditions": 3}'])
def test_a_damaged_record_is_no_record(config: EvalConfig, text: str) -> None:
    (config.directory / up_to_date.FILE).write_text(text)
    assert up_to_date.read(config) is None


def test_a_run_that_is_not_there(config: EvalConfig, tmp_path: Path) -> None:
    assert up_to_date.read(dataclasses.replace(config, out=tmp_path / "nowhere")) is None
