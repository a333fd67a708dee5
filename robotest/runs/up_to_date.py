"""Knowing that a run has nothing left to do without loading the policy, its verifiers or a simulator.

When a run completes, ``RUN/complete.json`` keeps what was asked for, the hashes of the files it was asked of, and the
conditions. The same question about the same files has the same answer, which is in the run directory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robotest.config import EvalConfig
from robotest.runs import directory, provenance, schedule
from robotest.statistics.summary import Summary

FILE = "complete.json"
_NO_MATTER = ("out", "workers", "env_python", "batch_window_s", "retry", "allow_code_changes")
"""Arguments that no result depends on."""


def read(config: EvalConfig) -> Summary | None:
    """Return the summary of a run that was completed with exactly these arguments and files, or None.

    Raises:
        RunDirectoryError: the run's episodes are damaged.
    """
    try:
        record = json.loads((config.directory / FILE).read_text(encoding="utf-8"))
        conditions, tasks = list(record["conditions"]), list(record["tasks"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never completed, or damaged: the slow way finds out
    if record.get("asked") != _asked(config):
        return None
    asked, finished = directory.read(config.directory)
    asked = dataclasses.replace(asked, verifiers={c: asked.verifiers.get(c) for c in conditions}, tasks=tuple(tasks))
    keys = schedule.keys(asked, finished)
    if not all(key in finished for key in keys):
        return None
    if config.retry == "errors" and any(finished[key].outcome == "error" for key in keys):
        return None
    return schedule.summarise(asked, finished, unpaired=config.unpaired)


def write(config: EvalConfig, summary: Summary) -> None:
    """Note that `config` is done."""
    tasks = next(iter(summary.conditions.values())).tasks
    record = {"asked": _asked(config), "conditions": list(summary.conditions), "tasks": list(tasks)}
    with directory.writing(config.directory):
        directory.write_json(config.directory / FILE, record)


def _asked(config: EvalConfig) -> dict[str, Any]:
    """The arguments in the form that JSON gives back, and what the files they name hold."""
    asked = {name: value for name, value in dataclasses.asdict(config).items() if name not in _NO_MATTER}
    files = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(set(_files(config)))}
    result: dict[str, Any] = json.loads(json.dumps({**asked, "files": files}))
    return result


def _files(config: EvalConfig) -> Iterator[Path]:
    """Every file that the results depend on: the policy's folder, verifiers given by path, code given by name."""
    for folder in (Path(config.policy), provenance.weights_folder(config.policy)):
        if folder is not None and folder.is_dir():
            yield from (path for path in folder.iterdir() if path.is_file())
    yield from provenance.environment_files(config.env, config.success, config.env_args)
    yield from provenance.decision_files(config.policy, config.verifiers or ())
    named = (Path(text.partition("=")[2]) for text in config.verifiers or ())
    yield from (path for path in named if path.is_file())
