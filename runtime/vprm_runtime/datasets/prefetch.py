"""The next image is decoded and tiled in a thread while the engine scores the one before it."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.datasets.parsed_row import BadRow
from vprm_runtime.datasets.row import Row

Tiles = list[NDArray[np.uint8]]  # of each image: [T, size, size, 3]
MakeTiles = Callable[[], Tiles]


def rows_with_tiles(
    rows: Iterable[Row | BadRow],
    tiles: Callable[[Row], Tiles],
    may_run_ahead: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[Row | BadRow, MakeTiles]]:
    """Each row with a call that gives its tiles and raises what `tiles` raised for it.

    `tiles` runs ahead for a row whose images or question are not those of the row before; for others only when called.
    `may_run_ahead` is asked once for every row.
    """
    with ThreadPoolExecutor(1, "tiles") as pool:
        before: tuple[Row | BadRow, MakeTiles] | None = None
        for row in rows:
            make: MakeTiles = list
            is_ahead = may_run_ahead()
            if isinstance(row, Row):
                is_new = before is None or isinstance(before[0], BadRow) or row.group_key != before[0].group_key
                make = pool.submit(tiles, row).result if is_new and is_ahead else partial(tiles, row)
            if before is not None:
                yield before
            before = (row, make)
        if before is not None:
            yield before
