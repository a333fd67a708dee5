import dataclasses
import io

import pytest
from rich.console import Console
from rich.table import Table

from robotest.report import progress, tables
from robotest.statistics.summary import Summary, summarise
from robotest.types import Episode, Outcome
from tests.doubles.identities import identity


def _episode(condition: str, task: str, index: int, outcome: Outcome) -> Episode:
    return Episode(condition, task, index, outcome, 10, 20, 2, "go", (0, 0), None, 0.01, 0.001, 0.5)


def _summary(**outcomes: str) -> Summary:
    """One letter an episode, e.g. ``a="sfe"``; two tasks in turn."""
    words: dict[str, Outcome] = {"s": "success", "f": "failure", "e": "error"}
    episodes = [
        _episode(name, ("near", "far")[i % 2], i // 2, words[letter])
        for name, letters in outcomes.items()
        for i, letter in enumerate(letters)
    ]
    return summarise(episodes, tuple(outcomes), ("near", "far"))


def _text(summary: Summary, width: int = 140) -> str:
    console = Console(width=width, file=io.StringIO())
    for part in tables.report(summary, detail=True):
        console.print(part)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def _row(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.lstrip("│ ").startswith(start))
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def test_stand_in_assets_are_in_every_title() -> None:
    marked = dataclasses.replace(_summary(random="sfsf", leverage="ssss"), standin_assets=True)
    titles = [part.title for part in tables.report(marked, detail=True) if isinstance(part, Table)]
    assert len(titles) >= 4
    assert all("STAND-IN ASSETS" in str(title) for title in titles)
    assert marked.to_json()["standin_assets"] is True
    assert "STAND-IN" not in _text(_summary(random="sfsf", leverage="ssss"))


def test_rates_by_task_and_overall() -> None:
    text = _text(_summary(random="sfsf", leverage="ssss"))
    assert _row(text, "near")[1].startswith("100.0 [34.2, 100.0] 2/2")
    assert _row(text, "far")[1].startswith("0.0 [0.0, 65.8] 0/2")
    assert _row(text, "all tasks")[1:] == ["50.0 [15.0, 85.0] 2/4", "100.0 [51.0, 100.0] 4/4"]


def test_errors_stand_beside_the_rate() -> None:
    text = _text(_summary(random="sesf", leverage="eeee"))
    assert _row(text, "all tasks")[1:] == ["66.7 [20.8, 93.9] 2/3 +1 error", "- +4 errors"]


def test_comparison_row() -> None:
    cells = _row(_text(_summary(random="sfsffe", leverage="sssssf")), "leverage")
    assert cells[:7] == ["leverage", "random", "5 (-1)", "2", "3", "0", "0"]
    assert cells[7].startswith("+60.0 [")
    assert cells[8] == "0.250"


def test_small_p_values_are_not_rounded_to_zero() -> None:
    cells = _row(_text(_summary(random="f" * 40, leverage="s" * 40)), "leverage")
    assert cells[8] == "1.8e-12"


def test_one_condition_has_no_comparisons() -> None:
    assert "Paired" not in _text(_summary(random="sf"))


def test_speed() -> None:
    text = _text(_summary(random="sf"))
    assert "2 episodes, 20 control steps in 1.0 s of episodes: 20 steps/s, 4 decisions" in text
    assert "random 5.0 + 0.50" in text


def test_nothing_done_yet() -> None:
    text = _text(_summary(random="", leverage=""))
    assert _row(text, "all tasks")[1:] == ["-", "-"]
    assert "steps/s" not in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_fits_the_terminal(width: int) -> None:
    text = _text(_summary(random="sf", medoid="sf", cfn="ss", leverage="ss"), width)
    assert max(map(len, text.splitlines())) <= width


def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    task, condition = "[/x] :smile:", "[bold]a"
    summary = summarise([_episode(condition, task, 0, "success")], (condition,), (task,))
    for part in tables.report(dataclasses.replace(summary, notes=("success: info:[key]",))):
        progress.console().print(part)
    output = capsys.readouterr().out
    assert all(text in output for text in (task, condition, "info:[key]"))


def test_every_table_says_what_its_run_must_say() -> None:
    summary = dataclasses.replace(
        _summary(a="sf", b="ff"), notes=("success: terminated", "mujoco 3.8.1", "not LIBERO's")
    )
    titles = [str(part.title) for part in tables.report(summary, detail=True) if isinstance(part, Table)]
    assert len(titles) == 4
    assert all(title.endswith("success: terminated | mujoco 3.8.1 | not LIBERO's") for title in titles)


def test_notes_of_a_run() -> None:
    assert identity().notes == ()
    facts = {"success": "info:won", "simulator": "mujoco 3.3.7", "caveats": ("other physics",), "repeatable": False}
    assert identity(**facts).notes == (
        "success: info:won",
        "mujoco 3.3.7",
        "other physics",
        "starts laid out by people, not compared",
    )
    assert identity(success="predicate", simulator="", caveats=(), repeatable=True).notes == ()
