from __future__ import annotations

import sys
from pathlib import Path

import pytest

from robotest.runs import provenance


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of three modules, and one that none of them imports."""
    folder = tmp_path / "some_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "policy.py").write_text("import json\nimport numpy\nfrom . import parts\n\ndef load(path=None): ...\n")
    (folder / "parts.py").write_text("def f():\n    from some_package.deep import g\n    return g\n")
    (folder / "deep.py").write_text("from robotest import types\n")
    (folder / "unused.py").write_text("raise SystemExit\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_imports_are_followed_within_a_package_and_nothing_is_run(package: Path) -> None:
    files = provenance.source_files("policy", "some_package.policy:load")
    assert {f.name for f in files} == {"__init__.py", "policy.py", "parts.py", "deep.py"}
    assert "some_package" not in sys.modules


def test_a_module_alone_takes_those_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lone_env.py").write_text("import lone_part\nimport pytest\n")
    (tmp_path / "lone_part.py").write_text("import lone_env\n")
    (tmp_path / "lone_plot.py").write_text("import lone_env\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert {f.name for f in provenance.source_files("env", "lone_env:suite")} == {"lone_env.py", "lone_part.py"}


@pytest.mark.parametrize("name", ["dual_arm", "gymnasium:CartPole-v1", "libero/libero_object", "no_such_module:suite"])
def test_what_comes_with_this_package_or_is_not_there_has_no_files(name: str) -> None:
    assert provenance.source_files("env", name) == set()
    assert provenance.digest(provenance.environment_files(name, None, ())) is None


def test_a_module_that_registers_gymnasium_ids_is_code_too() -> None:
    files = provenance.source_files("env", "gymnasium:tests.doubles.third_party:Lamp-v3")
    assert Path(__file__).parents[1] / "doubles" / "third_party.py" in files


def test_every_edit_is_another_digest(package: Path) -> None:
    def digest() -> str | None:
        return provenance.digest(provenance.decision_files("some_package.policy:load", ()))

    before = digest()
    (package / "unused.py").write_text("1\n")
    assert digest() == before
    (package / "deep.py").write_text("from robotest import specs\n")
    assert digest() != before


def test_code_that_cannot_be_parsed_is_code(package: Path) -> None:
    (package / "policy.py").write_text("def load(:\n")
    files = provenance.source_files("policy", "some_package.policy:load")
    assert {f.name for f in files} == {"__init__.py", "policy.py"}


@pytest.mark.parametrize("rule", [None, "none", "terminated", "predicate", "info:some_package", "return>=1"])
def test_a_rule_without_a_function_has_no_files(rule: str | None) -> None:
    assert provenance.environment_files("dual_arm", rule, ()) == set()


def test_what_judges_and_what_arguments_name_belongs_to_the_environment(package: Path) -> None:
    files = provenance.environment_files("dual_arm", "some_package.deep:won", (f"xml={package / 'parts.py'}", "n=3"))
    assert {f.name for f in files} == {"__init__.py", "deep.py", "parts.py"}
