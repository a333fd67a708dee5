"""Single-threaded numerics: splitting a sum over threads changes its last bits."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from threadpoolctl import threadpool_limits

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that libraries read when they are loaded."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Restrict BLAS, OpenMP and torch to the calling thread, including libraries loaded within the context.

    torch bundles a BLAS that `threadpool_limits` does not see, so torch itself is asked too. Otherwise results would
    depend on what the process computed before, and on whether torch was loaded. If torch is first loaded within the
    context, it stays single-threaded afterwards.
    """
    torch = sys.modules.get("torch")
    n_threads = torch.get_num_threads() if torch else 0
    environment = {name: os.environ.get(name) for name in VARIABLES}
    try:
        os.environ.update(dict.fromkeys(VARIABLES, "1"))
        with threadpool_limits(limits=1):
            if torch:
                torch.set_num_threads(1)
            yield
    finally:
        if torch:
            torch.set_num_threads(n_threads)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
