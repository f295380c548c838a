"""Optimisation profiles: the one table from which builder, runtime, memory budget and tests take their shapes.

A profile gives every dynamic dimension of `graph_io` a smallest, a typical and a largest size. TensorRT chooses kernels
for the typical one and refuses what lies outside. The LLM engine has two: `prefix` for blocks after an empty cache,
`suffix` for packed candidates after a cached prefix. They differ in the typical sizes only, so any block fits either.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from vprm_runtime.bundle.graph_io import GraphIO
from vprm_runtime.bundle.manifest import Manifest
from vprm_runtime.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class SizeRange:
    """Smallest, typical and largest size of one dynamic dimension."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.opt <= self.max or self.max < 1:
            raise InputError(f"{self} is not a profile range: it needs 0 <= MIN <= OPT <= MAX and MAX >= 1")

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"

    def capped(self, limit: int) -> "SizeRange":
        """The same range with no size above `limit`."""
        return SizeRange(min(self.min, limit), min(self.opt, limit), min(self.max, limit))


@dataclass(frozen=True)
class LlmSizes:
    """Sizes of the LLM graph's dimensions: S new tokens, P past rows, R image rows, K score positions."""

    tokens: SizeRange
    past: SizeRange
    image_rows: SizeRange
    scores: SizeRange


@dataclass(frozen=True)
class ProfileSet:
    """All profiles of one build: tiles of the vision engine, and the LLM engine's two sets of sizes."""

    name: str
    tiles: SizeRange
    prefix: LlmSizes
    suffix: LlmSizes

    @property
    def max_block_tokens(self) -> int:
        """Tokens that one engine call can take."""
        return min(self.prefix.tokens.max, self.suffix.tokens.max)


@dataclass(frozen=True)
class TensorShapes:
    """One input's shapes in one profile."""

    min: Shape
    opt: Shape
    max: Shape


Profile = Mapping[str, TensorShapes]  # by input name

ProfileName = Literal["latency", "throughput"]


@dataclass(frozen=True)
class _Row:
    """What a named profile asks for; image rows follow from tiles, limits from the model."""

    tiles: SizeRange
    tokens: SizeRange
    past_max: int
    suffix_past: int
    scores: SizeRange


# The typical request: 7 to 13 tiles of 256 tokens and a question (a prefix of 2,000 to 3,500 tokens), 8 candidates of
# about 300 tokens and 10 steps each. `latency` keeps blocks and workspace small, `throughput` packs 32 candidates.
PROFILES: Mapping[ProfileName, _Row] = {
    "latency": _Row(SizeRange(1, 7, 13), SizeRange(1, 2048, 4096), 8192, 3072, SizeRange(1, 80, 512)),
    "throughput": _Row(SizeRange(1, 13, 52), SizeRange(1, 8192, 8192), 16384, 3584, SizeRange(1, 320, 1024)),
}
_CUSTOM_KEYS = ("tiles", "tokens", "past", "scores")


def profile_set(text: str, manifest: Manifest) -> ProfileSet:
    """Profiles for one model from a name, or from changes to `latency`: "tokens=1:1024:2048,past=0:2048:4096".

    Raises InputError naming the part that is wrong and what is allowed.
    """
    name: ProfileName = "throughput" if text == "throughput" else "latency"
    sizes = {} if text in PROFILES else _parse(text)
    return replace(sized_profiles(manifest, name, **sizes), name=text)


def sized_profiles(
    manifest: Manifest,
    name: ProfileName = "latency",
    *,
    tiles: SizeRange | None = None,
    tokens: SizeRange | None = None,
    past: SizeRange | None = None,
    scores: SizeRange | None = None,
) -> ProfileSet:
    """The named profiles with other sizes of some dimensions, nothing above what the model takes.

    Raises InputError if a dimension other than `past` may be empty.
    """
    row, limit = PROFILES[name], manifest.model.max_positions_tokens
    past = (past or SizeRange(0, row.suffix_past, row.past_max)).capped(limit)
    tokens = (tokens or row.tokens).capped(limit)
    tiles = tiles or row.tiles.capped(manifest.tiling.max_tiles + manifest.tiling.use_thumbnail)
    scores = (scores or row.scores).capped(tokens.max)
    _check_minimum("tokens", tokens, 1)
    _check_minimum("tiles", tiles, 1)
    _check_minimum("scores", scores, 1)
    image_rows = SizeRange(0, tiles.opt * manifest.model.tokens_per_tile, tokens.max).capped(tokens.max)
    prefix = LlmSizes(tokens, SizeRange(past.min, past.min, past.max), image_rows, scores)
    prefix = replace(prefix, scores=SizeRange(scores.min, scores.min, scores.max))
    suffix = LlmSizes(tokens, past, SizeRange(0, 0, image_rows.max), scores)
    return ProfileSet(name, tiles, prefix, suffix)


def vision_profiles(io: GraphIO, profiles: ProfileSet) -> tuple[Profile, ...]:
    """The vision engine's one profile."""
    return (_profile(io, {"T": profiles.tiles}),)


def llm_profiles(io: GraphIO, profiles: ProfileSet) -> tuple[Profile, ...]:
    """The LLM engine's profiles: prefix, suffix."""
    return tuple(
        _profile(io, {"S": sizes.tokens, "P": sizes.past, "R": sizes.image_rows, "K": sizes.scores})
        for sizes in (profiles.prefix, profiles.suffix)
    )


def _profile(io: GraphIO, sizes: Mapping[str, SizeRange]) -> Profile:
    chosen = [{dim: int(getattr(size, which)) for dim, size in sizes.items()} for which in ("min", "opt", "max")]
    return {spec.name: TensorShapes(*map(spec.sized, chosen)) for spec in io.inputs}


def _check_minimum(name: str, sizes: SizeRange, minimum: int) -> None:
    if sizes.min < minimum:
        raise InputError(f"profile part {name}={sizes}: its MIN must be at least {minimum}")


def _parse(text: str) -> dict[str, SizeRange]:
    usage = (
        f"a profile is one of {', '.join(PROFILES)}, or NAME=MIN:OPT:MAX[,...] "
        f"with names from {', '.join(_CUSTOM_KEYS)}, e.g. tokens=1:1024:2048,past=0:2048:4096"
    )
    changes: dict[str, SizeRange] = {}
    for part in text.split(","):
        name, _, sizes = part.partition("=")
        numbers = sizes.split(":")
        if name not in _CUSTOM_KEYS or len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            raise InputError(f"unknown profile {part!r}: {usage}")
        if name in changes:
            raise InputError(f"profile part {name} is given twice: {usage}")
        changes[name] = SizeRange(*(int(number) for number in numbers))
    return changes
