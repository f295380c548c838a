"""The document of a row: its scores and labels, or why it has none. Neighbours with one prefix share a session."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vprm_runtime.datasets.parsed_row import BadRow
from vprm_runtime.datasets.prefetch import MakeTiles, Tiles
from vprm_runtime.datasets.row import Row
from vprm_runtime.datasets.unchanged import ChangedInputError
from vprm_runtime.errors import EngineError, InputError
from vprm_runtime.images.load import NamedImage, read_image_file
from vprm_runtime.options import ScoreOptions
from vprm_runtime.prompt.steps import SplittingWatch
from vprm_runtime.scorer import StepScorer
from vprm_runtime.session import Session
from vprm_runtime.wire import error_document


class RowScorer:
    """A scorer and the session of the row before. `read_image` gives the content of an image file.

    With `with_outcome`, documents also have `outcome`: each response's score as one step, null if it has none.
    """

    def __init__(
        self,
        scorer: StepScorer,
        options: ScoreOptions,
        read_image: Callable[[Path], NamedImage] = read_image_file,
        with_outcome: bool = False,
    ) -> None:
        self._scorer, self._options, self._read_image = scorer, options, read_image
        self._with_outcome = with_outcome
        self._session: Session | None = None
        self._session_key = b""

    def tiles(self, row: Row) -> Tiles:
        """The tiles of a row's images; may run in a thread of its own. Raises InputError."""
        return self._scorer.tiles(self.pinned(row).images, row.options(self._options).max_tiles)

    def pinned(self, row: Row) -> Row:
        """The row with the content of its image files in place of their paths. Raises InputError."""
        read = (self._read_image(image) if isinstance(image, Path) else image for image in row.images)
        return replace(row, images=tuple(read))

    def document(self, row: Row | BadRow, tiles: MakeTiles) -> dict[str, Any]:
        """The JSON document; `tiles` is called if the row has another prefix than the one before.

        Raises EngineError if the engine failed, which says nothing about the row, and ChangedInputError.
        """
        if isinstance(row, BadRow):
            return _head(row) | {"error": row.error, "code": "invalid_input"}
        try:
            how = row.options(self._options)
            session = self._session_for(row, tiles)
            result = session.score(row.responses, **vars(how.responses))
            outcome: dict[str, Any] = {}
            if self._with_outcome:
                whole = session.score(row.responses, **{**vars(how.responses), "max_steps": 1})
                outcome = {"outcome": [candidate.score for candidate in whole]}
        except ChangedInputError:
            raise
        except InputError as error:
            return _head(row) | error_document(error, row.id) | _tail(row)
        except EngineError:
            self.close()
            raise
        return _head(row) | result.to_dict(row.id) | outcome | _tail(row)

    def close(self) -> None:
        """Give the session's rows back."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _session_for(self, row: Row, tiles: MakeTiles) -> Session:
        """The open session if the row shares its prefix, else a new one (the old one's cache goes first)."""
        key = row.group_key
        if self._session is None or key != self._session_key:
            self.close()
            self._session = self._scorer.session_of_tiles(tiles(), row.question)
            self._session_key = key
        return self._session


def failure(row: Row | BadRow, error: EngineError) -> dict[str, Any]:
    """The document of a row on which the engine failed."""
    return _head(row) | error_document(error, row.id) | (_tail(row) if isinstance(row, Row) else {})


def watch_splitting(
    watch: SplittingWatch, row: Row | BadRow, document: Mapping[str, Any], options: ScoreOptions
) -> None:
    """Take note of how a row's responses were split, unless one step each was asked for."""
    if isinstance(row, Row) and "results" in document and options.max_steps != 1 and row.max_steps != 1:
        watch.add(row.responses, [len(result["steps"]) for result in document["results"]])


def _head(row: Row | BadRow) -> dict[str, Any]:
    """Which row it is: its own id, and its place in the input."""
    return {"id": row.id, "row": row.number}


def _tail(row: Row) -> dict[str, Any]:
    """Its labels, or what is wrong with them."""
    return {**row.labels, **({"label_error": row.label_error} if row.label_error is not None else {})}
