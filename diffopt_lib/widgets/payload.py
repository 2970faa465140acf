"""What a page gets of an explorer: tables in one block of bytes or a solve of its own, and values to check them by."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np

from diffopt_lib.widgets.controls import plain
from diffopt_lib.widgets.jumps import Baked
from diffopt_lib.widgets.page_solve import PageSolved
from diffopt_lib.widgets.table import FINE


def pack(baked: Baked) -> tuple[bytes, dict]:
    """All tables in one deflated block of bytes, and what the page is told about them."""
    blocks, specs, offset = [], {}, 0
    for name, table in baked.tables.items():
        codes = np.ascontiguousarray(table.codes.astype(table.codes.dtype.newbyteorder("<")))
        jumps = np.asarray(table.jumps, dtype=np.uint8)
        blocks += [codes.tobytes(), jumps.tobytes()]
        specs[name] = {
            "shape": list(table.shape),
            "size": table.codes.shape[1],
            "byte": table.codes.dtype == np.uint8,
            "codes": offset,
            "jumps": offset + codes.nbytes,
            "low": table.low.tolist(),
            "step": table.step.tolist(),
            "span": table.span.tolist(),
            "nan": table.nan,
            "log": table.log.tolist(),
            "strings": table.strings,
        }
        offset += codes.nbytes + jumps.nbytes
    stored = {
        "page": None,
        "nodes": baked.nodes,
        "extras": [plain(context) for context in baked.extras],
        "fine": {"cells": list(baked.fine), "rows": list(baked.fine.values()), "parts": FINE},
        "tables": specs,
        "error": baked.error,
        "checks": check_list(baked.checks),
    }
    return zlib.compress(b"".join(blocks), 9), stored


def describe(solved: PageSolved) -> dict:
    """What the page is told about solutions that it computes itself."""
    specs = {
        name: {
            "shape": list(shape),
            "low": solved.low[name].tolist(),
            "span": solved.span[name].tolist(),
            "log": solved.log[name].tolist(),
        }
        for name, shape in solved.shapes.items()
    }
    return {
        "page": {"source": solved.source, "data": solved.data},
        "tables": specs,
        "error": solved.error,
        "checks": check_list(solved.checks),
    }


def check_list(checks: Sequence[tuple[dict, dict]]) -> list[dict]:
    return [
        {"context": plain(context), "marks": {name: as_list(array) for name, array in arrays.items()}}
        for context, arrays in checks
    ]


def check_size(baked: Baked, table: bytes, limit: int) -> None:
    size = len(base64.b64encode(table))
    if size > limit:
        raise ValueError(
            f"the widget would store {size:,} bytes, more than {limit:,}: {baked.nodes} nodes × "
            f"{sum(table.codes.shape[1] for table in baked.tables.values()):,} numbers. "
            "Use fewer `steps`, fewer controls, or coarser marks; or bring a `page_solve`, which needs no table"
        )


def as_list(array: np.ndarray) -> list:
    """Flat, with null for NaN."""
    if array.dtype == object:
        return list(array.ravel())
    return [None if np.isnan(v) else float(f"{v:.9g}") for v in array.ravel()]
