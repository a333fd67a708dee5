from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from robotest.cli.main import main
from robotest.errors import RunDirectoryError
from robotest.evaluation import evaluate
from robotest.runs import merge, schedule
from tests.test_evaluate import TOWARDS, config


def test_runs_of_two_policies_are_paired_by_start(tmp_path: Path) -> None:
    evaluate(config(tmp_path / "old"))
    evaluate(config(tmp_path / "new", policy="tests.doubles.fakes:other_policy", candidates=6, execute=3))
    both = merge.pair(tmp_path / "old", tmp_path / "new")
    assert both.pairs == (("old/random", "new/random"), ("old/medoid", "new/medoid"))
    summary = schedule.summarise(both.arguments, both.episodes, pairs=both.pairs)
    assert [(c.a, c.b, c.pairs) for c in summary.comparisons] == [(a, b, 6) for a, b in both.pairs]


def test_without_a_common_condition_all_are_compared_across(tmp_path: Path) -> None:
    evaluate(config(tmp_path / "a", verifiers=("random", "first")))
    evaluate(config(tmp_path / "b", verifiers=(TOWARDS,)))
    assert merge.pair(tmp_path / "a", tmp_path / "b").pairs == (
        ("a/random", f"b/{TOWARDS}"),
        ("a/first", f"b/{TOWARDS}"),
    )


def test_only_common_tasks_count(tmp_path: Path) -> None:
    evaluate(config(tmp_path / "a"))
    evaluate(config(tmp_path / "b", tasks=("far",)))
    both = merge.pair(tmp_path / "a", tmp_path / "b")
    assert both.arguments.tasks == ("far",)
    summary = schedule.summarise(both.arguments, both.episodes, pairs=both.pairs)
    assert [c.pairs for c in summary.comparisons] == [3, 3]


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        evaluate(config(tmp_path / folder / "run"))
    both = merge.pair(tmp_path / "x" / "run", tmp_path / "y" / "run")
    assert len(both.arguments.verifiers) == 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 5}, "seed is 0 in one and 5 in the other"),
        ({"wording": "unseen"}, "wording is 'seen' in one and 'unseen' in the other"),
        ({"env": "tests.doubles.fragile:suite", "tasks": ("sound",)}, "env is 'tests.doubles.fakes:suite' in one"),
        ({"tasks": ("near",)}, "no task in common: far; near"),
    ],
)
def test_what_is_not_the_same_question_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    evaluate(config(tmp_path / "a", tasks=("far",)))
    evaluate(config(tmp_path / "b", **{"tasks": ("far",), **changes}))
    with pytest.raises(RunDirectoryError, match="cannot be paired") as error:
        merge.pair(tmp_path / "a", tmp_path / "b")
    assert says in str(error.value)


def test_another_step_limit_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        evaluate(config(tmp_path / name, tasks=("far",)))
    lines = (tmp_path / "b" / "episodes.jsonl").read_text().replace('"max_steps": 20', '"max_steps": 30')
    (tmp_path / "b" / "episodes.jsonl").write_text(lines)
    with pytest.raises(RunDirectoryError, match="the step limit of far is 20 in one and 30 in the other"):
        merge.pair(tmp_path / "a", tmp_path / "b")


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    evaluate(config(tmp_path / "a"))
    with pytest.raises(RunDirectoryError, match="given twice"):
        merge.pair(tmp_path / "a", tmp_path / "a")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It is only read."""
    out = tmp_path_factory.mktemp("merge") / "run"
    evaluate(config(out, verifiers=("random", TOWARDS), tasks=("far",), episodes=30))
    return out


@pytest.mark.parametrize(
    ("gate", "code", "says"),
    [
        (f"random:{TOWARDS}", 3, "random is worse than"),
        (f"{TOWARDS}:random", 0, "is not worse than random"),
        ("random:leverage", 2, "name two different conditions as A:B"),
        ("random", 2, "name two different conditions as A:B"),
    ],
)
def test_the_gate_of_continuous_integration(
    run: Path, gate: str, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(run), "--fail-if-worse", gate]) == code
    assert says in capsys.readouterr().err


def test_a_gate_without_data_does_not_pass(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_bytes((run / "run.json").read_bytes())
    assert main(["compare", str(tmp_path), "--fail-if-worse", f"random:{TOWARDS}"]) == 2
    assert "not enough data" in capsys.readouterr().err


def test_two_runs_on_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(
        config(tmp_path / "other", tasks=("far",), verifiers=("random",), policy="tests.doubles.fakes:other_policy")
    )
    assert main(["compare", str(run), str(tmp_path / "other"), "--json"]) == 0
    (comparison,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert (comparison["a"], comparison["b"], comparison["pairs"]) == ("run/random", "other/random", 3)


def test_markdown_has_every_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(run), "--markdown", "--level", "0.9"]) == 0
    text = capsys.readouterr().out
    assert "| task | random |" in text
    assert "a - b, points [90 %]" in text
    assert "| far |" in text
    assert text.count("|---") + text.count("| ---") >= 4
    rows = [line.count("|") for line in text.split("\n\n")[1].splitlines()]
    assert len(set(rows)) == 1


@pytest.mark.parametrize("bad", ["0", "1.5"])
def test_a_level_that_is_none_is_refused(run: Path, bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(run), "--level", bad]) == 2
    assert "confidence level" in capsys.readouterr().err


def test_plan_measures_in_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--rate", ".6", "--gain", ".05", "--power", ".8"]
    assert main([*arguments, "--json"]) == 0
    usual = json.loads(capsys.readouterr().out)
    assert 300 < usual["paired"] < usual["unpaired"]
    assert main([*arguments, "--discordance", ".1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["paired"] < usual["paired"] / 2
    assert main([*arguments, "--run", str(run)]) == 0
    assert "30 pairs" in capsys.readouterr().out


def test_plan_says_which_condition_is_the_base_and_what_few_pairs_leave_open(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = []
    for base in ([], ["--base", "random"]):
        assert main(["plan", "--run-directory", str(run), "--json", *base]) == 0
        out, err = capsys.readouterr()
        rates.append(json.loads(out)["question"]["rate"])
        assert err.startswith("only 30 pairs were measured: ")
        assert err.count("\n") == 1
    assert rates[0] == rates[1] < 1
    assert main(["plan", "--run-directory", str(run), "--base", TOWARDS]) == 2
    assert "rate 1.0 given" in capsys.readouterr().err  # it always succeeds
    assert main(["plan", "--run-directory", str(run), "--base", "medoid"]) == 2
    assert "--base medoid given; the conditions compared are" in capsys.readouterr().err
    assert main(["plan", "--run-directory", str(run)]) == 0
    assert "the base is random, which succeeds in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rate", "1.2"], "rate 1.2 given"),
        (["--rate", ".6", "--discordance", ".01"], "discordance 0.01 given"),
        (["--pair", "a:b"], "--pair given without --run-directory"),
        (["--base", "a"], "--base given without --run-directory"),
        (["--run-directory", "/no/run"], "holds no run"),
    ],
)
def test_plan_refuses_what_cannot_be(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [("", 0), ("ee ee", 1), ("sf", 0), ("ss ss", 0), ("ff", 0), ("se es", 1), ("s", 0)],
    ids=["zero", "all errors", "one discordant pair", "all succeed", "all fail", "no pair without error", "one side"],
)
@pytest.mark.parametrize("form", [(), ("--json",), ("--markdown",), ("--mid-p",)])
def test_little_data_is_said_and_never_nan(
    tmp_path: Path, outcomes: str, code: int, form: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every word is a start, every letter one of two conditions."""
    evaluate(config(tmp_path, tasks=("far",), episodes=1))
    line = json.loads((tmp_path / "episodes.jsonl").read_text().splitlines()[0])
    words = {"s": "success", "f": "failure", "e": "error"}
    lines = [
        {**line, "condition": condition, "index": index, "outcome": words[letter]}
        for index, pair in enumerate(outcomes.split())
        for condition, letter in zip(("random", "medoid"), pair, strict=False)
    ]
    (tmp_path / "episodes.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    asked = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**asked, "episodes": 5}))
    assert main(["compare", str(tmp_path), *form]) == code
    printed = capsys.readouterr().out
    assert "nan" not in printed.lower()
    assert "inf" not in printed.lower()
    if form == ("--json",):
        json.loads(printed)
