"""What all plugs share: a scorer in the process or on a server, and items scored in groups of one prefix."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from vprm_runtime.datasets.row_images import check_no_image_stated, image_values
from vprm_runtime.datasets.row_keys import KNOWN_KEYS
from vprm_runtime.errors import InputError, VprmError, quoted
from vprm_runtime.execution.aggregate import Aggregate
from vprm_runtime.results import CandidateScore, ScoreResult
from vprm_runtime.scorer import StepScorer
from vprm_runtime.strict_json import RepeatedKeyError, unique_keys

TARGET_VARIABLE = "VPRM_TARGET"
KEY_VARIABLE = "VPRM_API_KEY"
"""A key that the server of a URL wants."""
PREFIX_CACHE_BYTES = 512 << 20
_URL_STARTS = ("http://", "https://")
_LOG = logging.getLogger("vprm")


class Scorer(Protocol):
    """What `StepScorer` and `vprm.Client` have in common."""

    def score(
        self,
        images: Any,
        question: str,
        responses: Sequence[Any],
        *,
        max_tiles: int | None = None,
        max_steps: int | None = None,
        aggregate: Any = "mean",
    ) -> ScoreResult:
        """Score all responses to one question."""
        ...


@dataclass(frozen=True)
class RewardOptions:
    """How rewards are made; defaults as everywhere in vprm.

    aggregate: how step scores become a response's score. max_steps, max_tiles: limits (None: none, the bundle's).
    threads: CPU threads of a scorer in the process (None: all cores). device: its device.
    """

    aggregate: Aggregate = "mean"
    max_steps: int | None = None
    max_tiles: int | None = None
    threads: int | None = None
    device: str = "auto"


DEFAULT_REWARDS = RewardOptions()


@dataclass(frozen=True)
class Item:
    """A response to score. `images` is what `StepScorer.score` takes; several responses may share one."""

    images: Any
    question: str
    response: Any


@dataclass
class Rewarder:
    """Scores items. Threads may share it. Made by `opened`; use `of` to wrap a scorer that is open already."""

    scorer: Scorer
    options: RewardOptions = field(default=DEFAULT_REWARDS)

    def candidates(self, items: Sequence[Item]) -> list[CandidateScore | None]:
        """One result for each item, in order; None if it could not be scored, which is logged with the reason.

        Items with the same images and question are scored together, so their prefix is run once.
        """
        results: list[CandidateScore | None] = [None] * len(items)
        groups: dict[Any, list[int]] = {}
        for index, item in enumerate(items):
            question = item.question if isinstance(item.question, str) else id(item.question)
            groups.setdefault((_image_key(item.images), question), []).append(index)
        for indices in groups.values():
            first = items[indices[0]]
            try:
                how = self.options
                result = self.scorer.score(
                    first.images, first.question, [items[index].response for index in indices],
                    aggregate=how.aggregate, max_steps=how.max_steps, max_tiles=how.max_tiles,
                )  # fmt: skip
            except VprmError as error:
                _LOG.warning("%d responses have no reward: %s", len(indices), error)
                continue
            for index, candidate in zip(indices, result.candidates, strict=True):
                if candidate.score is None:
                    _LOG.warning("a response has no reward: %s", candidate.error)
                else:
                    results[index] = candidate
        return results

    def rewards(self, items: Sequence[Item]) -> list[float | None]:
        """The response score of each item, in order; None if it could not be scored."""
        return [None if found is None else found.score for found in self.candidates(items)]


def opened(target: str | os.PathLike[str], options: RewardOptions = DEFAULT_REWARDS) -> Rewarder:
    """Open a bundle directory in this process, or connect to the server at a URL (its key: VPRM_API_KEY).

    Raises what `StepScorer.open` raises, and MissingExtraError if the client's library is missing.
    """
    text = os.fspath(target)
    if text.startswith(_URL_STARTS):
        from vprm import Client

        return Rewarder(Client(text, api_key=os.environ.get(KEY_VARIABLE)), options)
    cache = PREFIX_CACHE_BYTES
    scorer = StepScorer.open(text, options.device, threads=options.threads, prefix_cache_bytes=cache)
    return Rewarder(scorer, options)


@lru_cache(maxsize=1)
def from_environment() -> Rewarder:
    """The rewarder that VPRM_TARGET names, opened once in a process. Raises InputError if it is not set."""
    target = os.environ.get(TARGET_VARIABLE)
    if not target:
        raise InputError(f"set {TARGET_VARIABLE} to a bundle directory or to the URL of a vprm serve")
    return opened(target)


def context_of(value: object) -> dict[str, Any]:
    """What a label or an info field says about a row: a mapping, or its JSON text, with question and images.

    Anything else is the right answer, or nothing, and says nothing. Raises InputError as reading a row does if images
    are under a key that is not known, if it says that there is an image and has none, or if a key is there twice.
    """
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value, object_pairs_hook=unique_keys)
        except RepeatedKeyError as error:
            raise InputError(f"the JSON with the question and the images is not taken: {error}") from error
        except (ValueError, RecursionError):
            return {}
    if not isinstance(value, Mapping):
        return {}
    value = {str(key): _unpacked(part) for key, part in value.items()}
    images = image_values(value, KNOWN_KEYS)
    if not images:
        check_no_image_stated(value)
    return {"question": value.get("question"), "images": _as_files(images) or None}


def _unpacked(value: object) -> object:
    """Arrays and columns of images or objects as lists: data frames and batches hold lists so. Pixels stay."""
    if isinstance(value, np.ndarray) and (value.dtype.kind in "OU" or value.ndim == 4):
        return _unpacked(value.item() if value.ndim == 0 else list(value))
    if isinstance(value, Mapping):
        return {key: _unpacked(part) for key, part in value.items()}
    return [_unpacked(part) for part in value] if isinstance(value, list | tuple) else value


def text_of(content: object) -> str:
    """The text of a message's content: a string, or a list of parts with text among them. Raises InputError."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = [part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
        if parts:
            return "\n".join(parts)
    raise InputError(f"a message without text cannot be scored: {quoted(content, 100)}")


def last_message(messages: Sequence[Mapping[str, Any]], role: str) -> str:
    """The text of the last message of a role. Raises InputError if there is none."""
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise InputError(f"messages are a list, got {type(messages).__name__}")
    for message in reversed(messages):
        if isinstance(message, Mapping) and message.get("role") == role:
            return text_of(message.get("content"))
    raise InputError(f"there is no message of the role {role}")


def images_in(messages: object) -> tuple[list[Any], int]:
    """The images that parts of messages carry, in order, and how many of their parts stand for an image in all.

    A part stands for one if its type says so, as a processor's placeholder does, whether it has the image or not.
    """
    images, parts_of_images = [], 0
    for message in messages if isinstance(messages, list | tuple) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list | tuple) else ():
            if not isinstance(part, Mapping):
                continue
            image = next((part[key] for key in ("image", "image_url", "url") if not is_missing(part.get(key))), None)
            image = image.get("url") if isinstance(image, Mapping) and "url" in image else image
            parts_of_images += part.get("type") in ("image", "image_url") or image is not None
            images += [] if is_missing(image) else [image]
    return images, parts_of_images


def is_missing(images: object) -> bool:
    """Whether there is no image: None, NaN of a data frame, empty text or an empty list. Pixels are not looked at."""
    return images is None or isinstance(images, float) or (isinstance(images, str | list | tuple) and not images)


def _as_files(images: object) -> Any:
    """Images as data sets hold them: an object with bytes or path becomes the one that it has."""
    if isinstance(images, Mapping):
        return images.get("bytes") or images.get("path") or images.get("url")
    if isinstance(images, list | tuple):
        return [_as_files(image) for image in images]
    return images


def _image_key(images: Any) -> Any:
    """Equal for the same images: by value for paths and bytes, by identity for pixels."""
    if isinstance(images, list | tuple):
        return tuple(_image_key(image) for image in images)
    return images if isinstance(images, str | bytes | os.PathLike | None) else id(images)
