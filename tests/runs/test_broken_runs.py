"""What breaks says why, once, and can be run again when it is mended."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from robotest.cli.main import main
from robotest.config import EvalConfig
from robotest.errors import BrokenRunError, RobotestError
from robotest.evaluation import evaluate
from robotest.loading import default_verifiers, policy_and_folder
from robotest.runs.directory import episode_path, read_episodes
from robotest.runtime.wire import Channel, WireError
from robotest.specs import EnvSpec
from tests.doubles import fakes, unruly
from tests.doubles.options import changed
from tests.runtime.test_starts import config


def arguments(out: Path, task: str, *more: str) -> list[str]:
    common = [
        "eval",
        "--env",
        "tests.doubles.unruly:suite",
        "--policy",
        "tests.doubles.fakes:policy",
        "--verifiers",
        "first,random",
    ]
    return [*common, "--videos", "none", "--workers", "0", "--out", str(out), "--tasks", task, *more]


def test_a_run_that_never_begins_stops_after_three_and_can_be_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = arguments(tmp_path, "breaks_at_reset", "--episodes", "9")
    monkeypatch.setenv(unruly.BROKEN, "1")
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "3 episodes of 'first' failed before their first action" in said
    assert "OSError: no picture without a screen" in said
    assert "--retry errors" in said
    assert not (tmp_path / "complete.json").exists()
    assert len(read_episodes(tmp_path)) == 5  # three of one condition, and the partners of two
    monkeypatch.delenv(unruly.BROKEN)
    assert main(command) == 1  # errors stay, unless asked
    assert "5 errors" not in capsys.readouterr().out
    assert main([*command, "--retry", "errors"]) == 0
    assert {e.outcome for e in read_episodes(tmp_path).values()} <= {"success", "failure"}
    assert not episode_path(tmp_path, ("first", "breaks_at_reset", 0)).with_suffix(".txt").exists()
    assert main([*command, "--retry", "errors"]) == 0
    assert "already complete" in capsys.readouterr().err


def test_errors_are_named_on_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path, "nan", "--episodes", "2")) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "2 errors of first, e.g. nan #0: InvalidObservationError: points observed as not finite" in told
    assert "--retry errors" in told
    assert json.loads((tmp_path / "summary.json").read_text())["errors"][0]["episodes"] == 2


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("nan", "InvalidObservationError: points observed as not finite"),
        ("dict", "SuccessError: success is {'success': False}"),
        ("word", "SuccessError: success is 'no'"),
        ("not_a_number", "SuccessError: success is nan"),
        ("list", "SuccessError: success is [0]"),
        ("bad_reward", "InvalidObservationError: reward inf"),
    ],
)
def test_what_means_nothing_is_an_error_and_no_failure(tmp_path: Path, task: str, says: str) -> None:
    evaluate(config(tmp_path, task, episodes=1))
    episodes = read_episodes(tmp_path).values()
    assert len(episodes) == 2
    for episode in episodes:
        assert episode.outcome == "error"
        assert says in (episode.error or "")


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_constructor_that_raises_is_one_line(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*arguments(tmp_path / "run", "breaks_when_built")]
    command[command.index("--workers") + 1] = str(workers)
    assert main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "env 'tests.doubles.unruly:suite', task 'breaks_when_built' cannot be built" in line
    assert "OSError: no licence for this simulator (unruly.py:" in line


def test_a_policys_factory_that_raises_is_one_line() -> None:
    with pytest.raises(
        RobotestError, match=r"policy 'tests.doubles.unruly:raising_policy' cannot be built: ValueError: no such"
    ):
        policy_and_folder("tests.doubles.unruly:raising_policy")


def test_a_module_that_raises_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_module_with_a_fault.py").write_text("def policy(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RobotestError, match="cannot be imported: SyntaxError"):
        policy_and_folder("a_module_with_a_fault:policy")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_candidates_of_another_library_become_arrays(tmp_path: Path, workers: int) -> None:
    evaluate(config(tmp_path / "torch", "rewards", policy="tests.doubles.unruly:torch_policy", workers=workers))
    evaluate(config(tmp_path / "numpy", "rewards", workers=workers))
    torchs, numpys = (
        {key: (e.outcome, e.steps, e.chosen) for key, e in read_episodes(tmp_path / name).items()}
        for name in ("torch", "numpy")
    )
    assert torchs == numpys


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("policy", "says"),
    [("wordy_policy", "gave chunks as <U4; numbers are needed"), ("leaving_policy", "SystemExit")],
)
def test_a_policy_without_an_answer_leaves_nobody_waiting(tmp_path: Path, workers: int, policy: str, says: str) -> None:
    with pytest.raises(BrokenRunError, match=says):
        evaluate(config(tmp_path, "rewards", policy=f"tests.doubles.unruly:{policy}", workers=workers, episodes=4))


@pytest.mark.slow
def test_an_answer_that_cannot_be_sent_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send = Channel.send

    def narrow(self: Channel, message: Any) -> None:
        if message.get("do") == "chunk":
            raise WireError("a frame of 300 MB; at most 268 MB are allowed")
        send(self, message)

    monkeypatch.setattr(Channel, "send", narrow)
    with pytest.raises(BrokenRunError, match="WireError: a frame of 300 MB"):
        evaluate(config(tmp_path, "rewards", episodes=4, workers=1))


def test_returns_are_compared_where_nothing_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "eval",
        "--env",
        "tests.doubles.unruly:rewarding",
        "--policy",
        "tests.doubles.fakes:policy",
        "--episodes",
        "6",
    ]
    command += ["--verifiers", "tests.doubles.fakes:towards,random", "--videos", "none", "--workers", "0", "--out"]
    assert main([*command, str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "success: none" in told
    assert "Mean return" in told
    assert "Paired comparison" not in told
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["comparisons"] == []
    (compared,) = summary["return_comparisons"]
    assert compared["paired"]
    assert compared["episodes"] == 12
    assert compared["a"] == "random"
    assert compared["difference"] < 0
    assert compared["interval"][0] < compared["difference"] < compared["interval"][1]
    assert compared["p_value"] < 0.05
    assert {e.outcome for e in read_episodes(tmp_path).values()} == {"unjudged"}
    worse = ["compare", str(tmp_path), "--fail-if-worse"]
    assert main([*worse, "random:tests.doubles.fakes:towards"]) == 3
    assert main([*worse, "tests.doubles.fakes:towards:random"]) == 0
    with pytest.raises(RobotestError, match="--success none given with stopping"):
        evaluate(
            EvalConfig(
                tmp_path / "x",
                env="tests.doubles.unruly:rewarding",
                policy="tests.doubles.fakes:policy",
                verifiers=("first", "random"),
                stop_when_decided=True,
                workers=0,
            )
        )


def test_a_suite_that_judges_itself_takes_no_other_rule(tmp_path: Path) -> None:
    with pytest.raises(RobotestError, match="judges its tasks itself, by 'predicate'"):
        evaluate(config(tmp_path, "rewards", success="terminated"))


def test_edited_code_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "my_code" / "edited_policy.py"
    module.parent.mkdir()
    (module.parent / "edited_part.py").write_text("WRONG = 0.0\n")
    module.write_text(
        "from edited_part import WRONG\nfrom tests.doubles.fakes import PointPolicy\n\n"
        "def policy(path=None):\n    return PointPolicy(wrong=WRONG)\n"
    )
    monkeypatch.syspath_prepend(module.parent)
    command = ["eval", "--env", "tests.doubles.fakes:suite", "--policy", "edited_policy:policy", "--episodes", "2"]
    command += ["--verifiers", "random", "--videos", "none", "--workers", "0", "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert main(command) == 0
    assert "already complete" in capsys.readouterr().err
    (module.parent / "edited_part.py").write_text("WRONG = 0.4\n")
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "code: " in said
    assert "--allow-code-changes" in said
    assert main(["eval", *changed(command[1:], ["--episodes", "3", "--allow-code-changes"])]) == 0


def test_an_edited_rule_of_success_is_another_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "code" / "edited_rule.py"
    module.parent.mkdir()
    module.write_text("def won(judged):\n    return judged.steps > 3\n")
    monkeypatch.syspath_prepend(module.parent)
    command = [
        "eval",
        "--env",
        "gymnasium:CartPole-v1",
        "--policy",
        "random",
        "--verifiers",
        "first",
        "--episodes",
        "3",
    ]
    command += ["--success", "edited_rule:won", "--workers", "0", "--videos", "none", "--out"]
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    assert main([*command, one]) == 0
    module.write_text("def won(judged):\n    return judged.steps > 30\n")
    del sys.modules["edited_rule"]
    capsys.readouterr()
    assert main([*command, one]) == 2
    assert "env_code: " in capsys.readouterr().err
    assert main([*command, other]) == 0
    assert main(["compare", one, other]) == 2
    assert "the environment's code was edited in between" in capsys.readouterr().err
    assert main(["compare", one, other, "--allow-code-changes"]) == 0


def test_mended_code_needs_no_other_word_where_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "mended_policy.py"
    text = (
        "from tests.doubles.fakes import PointPolicy\n\nclass P(PointPolicy):\n    def sample(self, *_):\n        {}\n"
    )
    module.write_text(text.format("raise ValueError('a typo')") + "\ndef policy(path=None):\n    return P()\n")
    monkeypatch.syspath_prepend(tmp_path)
    command = ["eval", "--env", "tests.doubles.fakes:suite", "--policy", "mended_policy:policy", "--episodes", "4"]
    command += ["--verifiers", "random", "--videos", "none", "--workers", "0", "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert "ValueError: a typo" in capsys.readouterr().err
    module.write_text("from tests.doubles.fakes import policy\n")
    del sys.modules["mended_policy"]
    assert main(command) == 2  # three errors would be kept
    assert main([*command, "--retry", "errors"]) == 0


def needs_env(path: Path | None, env: EnvSpec) -> fakes.PointPolicy:
    assert env.action == fakes.ACTION
    return fakes.PointPolicy()


def test_a_policys_factory_may_ask_for_the_environment(tmp_path: Path) -> None:
    evaluate(config(tmp_path, "rewards", policy="tests.runs.test_broken_runs:needs_env"))
    with pytest.raises(RobotestError, match="is built for an environment"):
        policy_and_folder("tests.runs.test_broken_runs:needs_env")


def test_by_default_those_verifiers_are_compared_that_were_fitted(tmp_path: Path) -> None:
    assert default_verifiers(None) == ("random", "medoid")
    (tmp_path / "leverage.safetensors").touch()
    assert default_verifiers(tmp_path) == ("random", "medoid", "leverage")


def test_a_policy_of_another_kind_is_refused_in_words_about_it(tmp_path: Path) -> None:
    with pytest.raises(RobotestError, match=r"policy 'mini_vla' gives actions of mode 'tip'; .* takes native"):
        evaluate(EvalConfig(tmp_path, env="gymnasium:CartPole-v1", success="none", workers=0))


@pytest.mark.parametrize(
    "names",
    [
        ("..", "%2E."),
        ("a/b", "a%2Fb"),
        ("x" * 280, "x" * 281),
        (".", "%2E"),
        ("", "%"),
        ("a\nb", "a%0Ab"),
        ("ü" * 90, "ü" * 91),
    ],
)
def test_names_stay_in_the_run_directory_and_apart(tmp_path: Path, names: tuple[str, str]) -> None:
    paths = [episode_path(tmp_path, ("random", name, 0)) for name in names]
    assert paths[0] != paths[1]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
        assert path.resolve().parent.parent.parent.parent == tmp_path.resolve()


def test_plain_names_are_folders_as_they_are(tmp_path: Path) -> None:
    path = episode_path(tmp_path, ("inverted:leverage", "tests.doubles.third_party:Lamp-v3", 12))
    assert path == tmp_path / "episodes" / "inverted:leverage" / "tests.doubles.third_party:Lamp-v3" / "00012.h5"
