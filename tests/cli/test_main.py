import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robotest import evaluation
from robotest.cli.evaluation import Eval
from robotest.cli.inspection import Check
from robotest.cli.learning import Fit
from robotest.cli.main import COMMANDS, main, parse
from robotest.cli.robots import Deploy
from robotest.config import EvalConfig, FitConfig
from robotest.errors import InterruptedRunError, UnknownNameError
from robotest.names import among, split
from tests.doubles.options import changed

FAKES = (
    "--env",
    "tests.doubles.fakes:suite",
    "--policy",
    "tests.doubles.fakes:policy",
    "--verifiers",
    "random,tests.doubles.fakes:towards",
)


def _eval(out: Path, *more: str) -> int:
    usual = (*FAKES, "--out", str(out), "--episodes", "3", "--videos", "none")
    return main(["eval", *changed(usual, more)])


def _fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail; return its one-line error."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("robotest: error: ")
    assert err.count("\n") == 1
    return err


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["env", "dual_arm", "robotest.envs.dual_arm.suite:suite"] in rows


def test_list_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verifier"]["leverage"] == "robotest.verifiers.leverage:load"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lst"], ["lst", "list, check"]),
        ([], ["Expected one of"]),
        (["eval", "--candidates", "x"], ["--candidates", "'x'"]),
        (["eval", "--candidate", "8"], ["--candidate", "--candidates"]),
        (["check", "world", "x"], ["'world'", "'env'"]),
        (["check", "env"], ["name"]),
        (["check", "env", "dual_arn"], ["'dual_arn'", "Did you mean 'dual_arm'?"]),
        (["check", "env", "tests.doubles.fakes:suite", "--tasks", "nar"], ["'nar'", "Did you mean 'near'?"]),
        (["check", "env", "tests.doubles.fakes:nothing"], ["tests.doubles.fakes", "nothing"]),
        (["compare", "/nowhere"], ["/nowhere", "robotest eval"]),
        (["video", "/nowhere"], ["/nowhere", "robotest eval"]),
        (["video", "/nowhere", "--episodes", "lost"], ["'lost'", "failed"]),
    ],
)
def test_bad_usage_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]) -> None:
    line = _fails(capsys, *arguments)
    assert all(word in line for word in words), line


def test_a_mistyped_option_is_answered_by_its_own_command_alone(capsys: pytest.CaptureFixture[str]) -> None:
    line = _fails(capsys, "eval", "--verfiers", "leverage")
    assert "--verifiers" in line
    assert [name for name in COMMANDS if f"robotest {name} " in line] == ["eval"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--candidates", "0"], ["0", "at least 1"]),
        (["--episodes", "0"], ["0", "at least 1"]),
        (["--execute", "0"], ["0", "1 to 6"]),
        (["--execute", "7"], ["7", "1 to 6"]),
        (["--tasks", "nea"], ["'nea'", "'near'"]),
        (["--verifiers", "randm"], ["'randm'", "'random'"]),
        (["--verifiers", "random,random"], ["random", "2 times"]),
        (["--policy", "mini_vla_"], ["'mini_vla_'", "'mini_vla'"]),
        (["--setting", "dirty"], ["'dirty'", "clean"]),
        (["--image-size", "17"], ["17", "16"]),
        (["--out", "/proc/run"], ["/proc/run"]),
    ],
)
def test_bad_evaluation_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, more: list[str], words: list[str]
) -> None:
    usual = (*FAKES, "--out", str(tmp_path / "run"))
    line = _fails(capsys, "eval", *changed(usual, more))
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


def test_eval_prints_tables_and_writes_the_summary(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert _eval(tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert "all tasks" in out
    assert "Paired comparison" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["conditions"]["random"]["episodes"] == 6


def test_eval_json_is_the_summary_and_nothing_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert _eval(tmp_path / "run", "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "run" / "summary.json").read_text())


def test_eval_executes_whole_chunks_unless_told_otherwise(tmp_path: Path) -> None:
    for name, more, executed in (("all", (), 6), ("two", ("--execute", "2"), 2)):
        assert _eval(tmp_path / name, *more) == 0
        assert json.loads((tmp_path / name / "run.json").read_text())["identity"]["execute"] == executed


def test_a_complete_run_is_read_without_loading_anything(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _eval(tmp_path / "run")
    first = capsys.readouterr().out
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: pytest.fail("it was evaluated again"))
    assert _eval(tmp_path / "run") == 0
    again = capsys.readouterr()
    assert again.out == first
    assert f"already complete: 12 episodes read from {tmp_path / 'run'}" in again.err


def test_more_episodes_continue(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _eval(tmp_path / "run")
    before = (tmp_path / "run" / "episodes.jsonl").read_text()
    assert _eval(tmp_path / "run", "--episodes", "4") == 0
    assert "continuing: 12 of 16 episodes" in capsys.readouterr().err
    after = (tmp_path / "run" / "episodes.jsonl").read_text()
    assert set(before.splitlines()) < set(after.splitlines())
    assert after.count("\n") == 16


def test_fewer_episodes_of_a_larger_run_are_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _eval(tmp_path / "run")
    capsys.readouterr()
    assert _eval(tmp_path / "run", "--episodes", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["conditions"]["random"]["episodes"] == 4


def test_other_arguments_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _eval(tmp_path / "run")
    capsys.readouterr()
    line = _fails(capsys, "eval", *FAKES, "--out", str(tmp_path / "run"), "--seed", "1")
    assert "seed: 0 there, 1 given" in line


def test_error_episodes_exit_with_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = ("--policy", "tests.doubles.fakes:broken_policy", "--verifiers", "random")
    assert _eval(tmp_path / "run", *broken) == 1
    assert "errors" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "run")]) == 1


def test_the_default_directory_follows_from_the_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["eval", *FAKES, "--episodes", "1", "--videos", "none", "--seed", "3"]) == 0
    assert (tmp_path / "runs" / "tests.doubles.fakes-suite-tests.doubles.fakes-policy-seed3" / "summary.json").is_file()


def test_videos_by_default_and_on_demand(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["eval", *FAKES, "--out", str(run), "--episodes", "2", "--tasks", "near"]) == 0
    made = sorted(run.rglob("*.mp4"))
    assert 2 <= len(made) <= 4
    capsys.readouterr()
    assert main(["video", str(run), "--episodes", "all", "--conditions", "random"]) == 0
    printed = capsys.readouterr().out.split()
    assert len(printed) == 2
    assert all(Path(path).is_file() for path in printed)


def test_compare_some_conditions(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _eval(tmp_path / "run")
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "run"), "--conditions", "random", "--tasks", "far", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert list(summary["conditions"]) == ["random"]
    assert list(summary["conditions"]["random"]["tasks"]) == ["far"]
    assert "'rndom'" in _fails(capsys, "compare", str(tmp_path / "run"), "--conditions", "rndom")


def test_check_env_policy_verifier(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "env", "tests.doubles.fakes:suite"]) == 0
    assert main(["check", "policy", "tests.doubles.fakes:policy", *FAKES[:2]]) == 0
    assert main(["check", "verifier", "tests.doubles.fakes:towards", *FAKES[:4]]) == 0
    assert capsys.readouterr().out.count("keeps its contract") == 3


def test_check_names_the_broken_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "policy", "tests.cli.test_main:forgetful", *FAKES[:2]]) == 2
    assert "robotest: error: policy tests.cli.test_main:forgetful in" in capsys.readouterr().err


def test_interruption_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise InterruptedRunError("interrupted; the same command goes on")

    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    assert _eval(tmp_path / "run") == 130
    assert "robotest: interrupted; the same command goes on" in capsys.readouterr().err


@pytest.mark.slow
def test_control_c_keeps_what_is_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "robotest", "eval", *FAKES, "--out", str(run), "--episodes", "2000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own interpreter
    lines, deadline = run / "episodes.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (lines.exists() and lines.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in err
    assert "Traceback" not in err
    text = lines.read_text()
    assert text.endswith("\n")
    assert text.count("\n") >= 1


def forgetful(path: Path | None) -> object:
    """A policy whose candidates depend on `n_candidates`."""
    from robotest.types import Candidates
    from tests.doubles.fakes import PointPolicy

    class Forgetful(PointPolicy):
        def sample(self, observations, noise_seeds, n_candidates):  # type: ignore[no-untyped-def]
            given = super().sample(observations, noise_seeds, n_candidates)
            return [Candidates(c.actions + n_candidates, c.features) for c in given]

    return Forgetful()


def test_fit_has_the_defaults_of_its_configuration() -> None:
    parsed = parse(["fit", "--data", "demos.h5"])
    assert isinstance(parsed, Fit)
    assert parsed.config == FitConfig(Path("demos.h5"))


def test_fit_takes_every_setting_of_its_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    given = {
        "policy": "mine",
        "verifier": "knn",
        "out": Path("k.safetensors"),
        "overwrite": True,
        "features": Path("f.safetensors"),
        "feature": "hidden",
        "pooling": "mean",
        "scaling": "each",
        "candidates": 3,
        "stride": 4,
        "max_samples": 5,
        "seed": 6,
    }
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words.remove("True")
    parsed = parse(["fit", "--data", "demos.h5", *words])
    assert isinstance(parsed, Fit)
    assert parsed.config == FitConfig(Path("demos.h5"), **given)  # type: ignore[arg-type]
    assert main(["fit", "--data", "demos.h5", "--candidates", "0"]) == 2
    assert "candidates is 0; it must be at least 1" in capsys.readouterr().err


def test_eval_without_arguments_is_the_experiment_that_the_code_has_as_its_default() -> None:
    parsed = parse(["eval"])
    assert isinstance(parsed, Eval)
    assert parsed.config == EvalConfig()


@pytest.mark.slow
def test_collect_train_fit_eval(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    demos, policy, run = (str(tmp_path / name) for name in ("demos.h5", "policy", "run"))
    assert main(["collect", "--out", demos, "--tasks", "lift_tray", "--episodes", "2", "--workers", "1"]) == 0
    assert main(["train", "--data", demos, "--out", policy, "--steps", "2", "--batch", "2", "--threads", "1"]) == 0
    assert main(["train", "--data", demos, "--out", policy, "--steps", "2", "--batch", "2", "--threads", "1"]) == 0
    assert "where it was already: nothing was changed" in capsys.readouterr().out
    assert main(["fit", "--data", demos, "--policy", policy, "--candidates", "2", "--max-samples", "20"]) == 0
    for again in (["collect", "--out", demos], ["fit", "--data", demos, "--policy", policy]):
        assert main(again) == 2
        assert "is there already; choose another --out, or give --overwrite" in capsys.readouterr().err
    assert main(["fit", "--data", demos, "--candidates", "2"]) == 2  # a name is not a folder to write to
    arguments = ["--policy", policy, "--verifiers", "random,leverage,inverted", "--tasks", "lift_tray"]
    assert main(["eval", *arguments, "--episodes", "1", "--out", run, "--videos", "none"]) == 0
    assert main(["check", "verifier", "leverage", "--policy", policy]) == 0
    assert main(["check", "policy", policy]) == 0
    assert "inverted" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--verifiers", "a", "--episodes", "3", "--verifiers", "b,c"],
        ["--verifiers=a", "--episodes=3", "--verifiers", "b,c"],
        ["--verifiers", "a", "--verifiers=b", "--episodes", "3", "--verifiers", "c"],
    ],
)
def test_lists_given_in_parts_add_up(words: list[str]) -> None:
    parsed = parse(["eval", *words])
    assert isinstance(parsed, Eval)
    assert (parsed.config.verifiers, parsed.config.episodes) == (("a", "b", "c"), 3)


@pytest.mark.parametrize("option", ["tasks", "conditions"])
@pytest.mark.parametrize("command", ["compare", "video"])
def test_lists_of_every_command_add_up(command: str, option: str) -> None:
    parsed = parse([command, "run", f"--{option}", "a", f"--{option}", "b"])
    assert getattr(parsed, option) == "a,b"


def test_a_former_spelling_is_understood() -> None:
    parsed = parse(["deploy", "--verifier", "a", "--verifiers", "b", "--verifier=c"])
    assert isinstance(parsed, Deploy)
    assert parsed.verifiers == "a,b,c"
    assert parse(["eval", "--verifier", "a"]) == parse(["eval", "--verifiers", "a"])
    assert parse(["fit", "--data", "x", "--verifier", "knn"]) == Fit(FitConfig(Path("x"), verifier="knn"))


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["eval", "--episodes", "3", "--episodes", "4"], "--episodes"),
        (["eval", "--episodes=3", "--episodes", "4"], "--episodes"),
        (["eval", "--json", "--no-json"], "--json"),
        (["eval", "--image-size", "3", "--image_size", "4"], "--image-size"),
        (["fit", "--data", "x", "--verifier", "knn", "--verifier", "cfn"], "--verifier"),
        (["compare", "run", "--level", "0.9", "--level", "0.95"], "--level"),
    ],
)
def test_what_is_no_list_is_given_once(capsys: pytest.CaptureFixture[str], words: list[str], option: str) -> None:
    assert f"{option} given twice" in _fails(capsys, *words)


def test_options_that_are_for_repeating_are_kept() -> None:
    parsed = parse(["check", "env", "x", "--env-arg", "a=1", "--env-arg", "b=2"])
    assert isinstance(parsed, Check)
    assert parsed.env_arg == ("a=1", "b=2")


def test_arguments_of_the_environment_are_given_one_by_one() -> None:
    parsed = parse(["eval", "--env-arg", "a=1", "--env-arg", "b=2"])
    assert isinstance(parsed, Eval)
    assert parsed.config.env_args == ("a=1", "b=2")


def test_a_list_that_never_got_a_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--tasks" in _fails(capsys, "eval", "--tasks", "--json", "--tasks", "near")


KNOWN = ("near", "far", "pick up the cup, then the plate", "pick up the cup", "a,b", "a", "b")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all", KNOWN),
        ("near, far,", ("near", "far")),
        ("near,pick up the cup, then the plate,far", ("near", "pick up the cup, then the plate", "far")),
        ("pick up the cup,near", ("pick up the cup", "near")),
        ("a,b", ("a,b",)),
        ("b,a", ("b", "a")),
        (r"a\,b,b", ("a,b", "b")),
    ],
)
def test_names_may_have_commas_themselves(text: str, names: tuple[str, ...]) -> None:
    assert among("task", text, KNOWN) == names


def test_a_comma_within_a_name_is_escaped_where_names_are_not_known() -> None:
    assert split(r"pick up the cup\, then the plate, near,") == ("pick up the cup, then the plate", "near")


def test_an_unknown_name_among_known_ones_with_commas() -> None:
    with pytest.raises(UnknownNameError, match="task 'then'"):
        among("task", "pick up the cup, then, near", KNOWN)
