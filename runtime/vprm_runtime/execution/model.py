"""An opened model: everything that scoring reads and nothing that it writes."""

from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock

from vprm_runtime.bundle.manifest import Manifest
from vprm_runtime.engines.base import Engine, ImageRows, no_image_rows
from vprm_runtime.errors import InputError
from vprm_runtime.images.load import MAX_IMAGE_PIXELS
from vprm_runtime.prompt.builder import PromptBuilder


@dataclass(frozen=True)
class OpenedModel:
    """A bundle's manifest and prompts on one engine.

    Threads may share it. Whoever calls the engine or touches cached rows holds `lock`.
    `max_block_tokens` bounds the new tokens of one engine call, and with it the memory for attention.
    """

    manifest: Manifest
    prompts: PromptBuilder
    engine: Engine
    max_block_tokens: int
    max_image_pixels: int = MAX_IMAGE_PIXELS
    lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @cached_property
    def no_embeds(self) -> ImageRows:
        """Image embeddings of a block without image tokens: [0, hidden]."""
        return no_image_rows(self.manifest)

    def check_length(self, tokens: int, what: str) -> None:
        """Raise InputError if a prompt has more tokens than the model has positions."""
        limit = self.manifest.model.max_positions_tokens
        if tokens > limit:
            raise InputError(
                f"{what} {tokens} tokens, the model's limit is {limit}: shorten the text or use fewer tiles",
                code="prompt_too_long",
            )


def block_tokens(engine: Engine, limit: int | None) -> int:
    """Tokens of one engine call at most: `limit`, or what the engine asks for. Raises InputError if out of range."""
    if limit is not None and limit < 1:
        raise InputError(f"max_block_tokens must be at least 1, got {limit}")
    return limit or engine.max_block_tokens
