"""Computing on one thread, with libraries that are loaded before and within the context."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import torch

from robotest.threads import VARIABLES, one_thread

LOADED_WITHIN = """
import sys
from robotest.threads import one_thread
assert "torch" not in sys.modules
with one_thread():
    import torch
    print(torch.get_num_threads())
"""


def test_torch_computes_on_one_thread_and_gets_its_own_number_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
            found: list[int] = []
            thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            assert found == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_torch_that_is_loaded_within_has_one_thread() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    process = subprocess.run(  # noqa: S603
        [sys.executable, "-c", LOADED_WITHIN], capture_output=True, text=True, env=environment, timeout=120, check=True
    )
    assert process.stdout.split() == ["1"]


def test_variables_are_put_back() -> None:
    before = {name: os.environ.get(name) for name in VARIABLES}
    with one_thread():
        assert {os.environ[name] for name in VARIABLES} == {"1"}
    assert {name: os.environ.get(name) for name in VARIABLES} == before
