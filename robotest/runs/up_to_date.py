"""Whether a run is complete, without loading the policy, its verifiers or a simulator.

When a run completes, ``RUN/complete.json`` keeps its configuration, the hashes of all files that its results depend on,
and the conditions. Where these are the same again, the results are those in the run directory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robotest import cache
from robotest.config import EvalConfig
from robotest.runs import directory, provenance, schedule
from robotest.statistics.summary import Summary

FILE = "complete.json"
_NO_MATTER = ("out", "workers", "env_python", "batch_window_s", "wait_for_policy", "retry", "allow_code_changes")
"""Fields of `EvalConfig` that no result depends on."""


def read(config: EvalConfig) -> Summary | None:
    """Return the summary of a run that was completed with exactly these arguments and files, or None.

    Raises:
        RunDirectoryError: the run's episodes are damaged.
    """
    if provenance.is_served(config.policy):
        return None  # by whatever its server has loaded now
    try:
        record = json.loads((config.directory / FILE).read_text(encoding="utf-8"))
        conditions, tasks = list(record["conditions"]), list(record["tasks"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never completed, or damaged: `evaluate` looks closer
    if record.get("asked") != _question(config):
        return None
    arguments, finished = directory.read(config.directory)
    verifiers = {c: arguments.verifiers.get(c) for c in conditions}
    arguments = dataclasses.replace(arguments, verifiers=verifiers, tasks=tuple(tasks))
    keys = schedule.keys(arguments, finished)
    if not all(key in finished for key in keys):
        return None
    if config.retry == "errors" and any(finished[key].outcome == "error" for key in keys):
        return None
    return schedule.summarise(arguments, finished, unpaired=config.unpaired)


def write(config: EvalConfig, summary: Summary) -> None:
    """Record that a run of `config` is complete."""
    tasks = next(iter(summary.conditions.values())).tasks
    record = {"asked": _question(config), "conditions": list(summary.conditions), "tasks": list(tasks)}
    with directory.writing(config.directory):
        directory.write_json(config.directory / FILE, record)


def _question(config: EvalConfig) -> dict[str, Any]:
    """Return the configuration in the form that JSON gives back, with hashes of the files it names."""
    fields = {name: value for name, value in dataclasses.asdict(config).items() if name not in _NO_MATTER}
    files = {str(path): cache.sha256(path) for path in sorted(set(_files(config)))}
    result: dict[str, Any] = json.loads(json.dumps({**fields, "files": files}))
    return result


def _files(config: EvalConfig) -> Iterator[Path]:
    """Yield every file that results depend on: the policy's folder, files of verifiers, code behind names."""
    for folder in (Path(config.policy), provenance.weights_folder(config.policy)):
        if folder is not None and folder.is_dir():
            yield from (path for path in folder.iterdir() if path.is_file())
    yield from provenance.environment_files(config.env, config.success, config.env_args)
    yield from provenance.decision_files(config.policy, config.verifiers or ())
    named = (Path(text.partition("=")[2]) for text in config.verifiers or ())
    yield from (path for path in named if path.is_file())
