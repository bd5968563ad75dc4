"""Columns as a pandas DataFrame; pandas is an optional extra and is imported here only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from archsim.errors import ArchsimError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["frame"]


def frame(columns: Mapping[str, NDArray[Any] | Sequence[Any]]) -> pd.DataFrame:
    """A DataFrame of equal-length columns."""
    try:
        import pandas as pd
    except ImportError:
        raise ArchsimError("a DataFrame needs pandas, run: pip install archsim[plot]") from None
    return pd.DataFrame(
        {name: list(values) if isinstance(values, tuple) else values for name, values in columns.items()}
    )
