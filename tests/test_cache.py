"""Large files are hashed once, until they change."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from robotest import cache


def test_a_large_file_is_hashed_again_only_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SMALL", 4)
    hashed: list[Path] = []
    once = cache._sha256

    def counted(path: Path) -> str:
        hashed.append(path)
        return once(path)

    monkeypatch.setattr(cache, "_sha256", counted)
    large, small = tmp_path / "large", tmp_path / "small"
    small.write_bytes(b"abc")
    for content in (b"abcdef", b"abcdeg"):  # of the same size
        large.write_bytes(content)
        for file in (large, small):
            for _ in range(2):
                assert cache.sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert hashed == [large, small, small] * 2
    (record,) = (tmp_path / "cache" / "robotest" / "digests").iterdir()
    record.write_text("[]", encoding="utf-8")  # damaged
    assert cache.sha256(large) == hashlib.sha256(b"abcdeg").hexdigest()
