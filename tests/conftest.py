"""Every test carries the marker of its tier, which is the name of its folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

TIERS = ("unit", "oracle", "theory", "validation", "export")
HERE = Path(__file__).parent

#: tests neither use nor fill the results that the user keeps
_results = tempfile.TemporaryDirectory(prefix="archsim-results-")
os.environ["ARCHSIM_CACHE"] = _results.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and (tier := item.path.relative_to(HERE).parts[0]) in TIERS:
            item.add_marker(tier)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The export tier needs torch, so it runs when it is named: `make test-export`."""
    named = any("export" in argument for argument in config.invocation_params.args)
    return True if collection_path == HERE / "export" and not named else None
