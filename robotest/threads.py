"""One thread for every library that computes: how a sum is shared out over threads changes its last bits."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from threadpoolctl import threadpool_limits

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What a library reads when it is loaded."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Have BLAS, OpenMP and torch compute on the calling thread alone, libraries that are loaded within this included.

    torch carries a BLAS of its own that `threadpool_limits` does not see: only torch can tell it. Otherwise results
    would depend on what was computed before in the same process, and on whether torch was loaded yet. Where it is first
    loaded within this, it keeps to one thread afterwards.
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
