"""Tables that travel as Arrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from ._isthmus import Table

__all__ = ["table_from"]


def table_from(table: Table) -> pa.Table | Table:
    """What a table that has arrived is here: a pyarrow.Table over the same bytes, or without pyarrow itself.

    Called by the decoder.
    """
    try:
        import pyarrow as pa
    except ImportError:
        return table
    return pa.table(table)
