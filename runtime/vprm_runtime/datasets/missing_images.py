"""Look for the image files of rows before hours of work begin, not when each row's turn comes."""

import logging
from collections.abc import Iterable
from pathlib import Path

from vprm_runtime.datasets.parsed_row import BadRow
from vprm_runtime.datasets.row import Row
from vprm_runtime.errors import InputError, quoted

_LOG = logging.getLogger("vprm")


def check_image_paths(rows: Iterable[Row | BadRow]) -> None:
    """Warn of rows whose image files are not there: they will be left out.

    Raises InputError if that is so for every row. Reads the rows, opens no image.
    """
    count, missing, first = 0, 0, ""
    for row in rows:
        count += 1
        images = row.images if isinstance(row, Row) else ()
        absent = [image for image in images if isinstance(image, Path) and not image.is_file()]
        if absent:
            missing += 1
            first = first or f"row {row.number}: no image file at {quoted(absent[0])}"
    if missing and missing == count:
        raise InputError(
            f"not one of {count} rows has its images ({first}): name the folder that paths start at with --image-root",
            code="nothing_scored",
        )
    if missing:
        _LOG.warning("%d of %d rows will be left out, their images are missing; the first is %s", missing, count, first)
