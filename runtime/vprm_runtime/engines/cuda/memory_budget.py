"""Device memory, counted before anything runs: weights, workspace, inputs and outputs, and what is left for the cache.

A request that cannot fit is refused with these numbers, rather than failing halfway with an allocation error.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from vprm_runtime.errors import EngineError, InputError

# CUDA context, library code and allocation granularity; an estimate that is to be checked on each new device.
RESERVE_BYTES = 512 << 20
FIRST_CACHE_TOKENS = 4096  # a prefix of 13 tiles and some candidates: an engine is opened only if that fits beside it


@dataclass(frozen=True)
class MemoryBudget:
    """Bytes that one engine takes on a device with `free_bytes` before it is loaded.

    `inputs_outputs_bytes` is by tensor, `cache_row_bytes` what one cached token takes over all layers.
    `workspace_is_held`: it is allocated when the engine is opened; otherwise room for it is kept beside every cache.
    """

    device_name: str
    free_bytes: int
    weights_bytes: int
    workspace_bytes: int
    inputs_outputs_bytes: Mapping[str, int]
    cache_row_bytes: int
    reserve_bytes: int = RESERVE_BYTES
    workspace_is_held: bool = True

    @property
    def engine_bytes(self) -> int:
        """All that is needed before the first cached row."""
        return self.weights_bytes + self.workspace_bytes + sum(self.inputs_outputs_bytes.values()) + self.reserve_bytes

    @property
    def max_cache_tokens(self) -> int:
        """Cached tokens, of all sessions together, that fit beside the engine."""
        return max(0, self.free_bytes - self.engine_bytes) // self.cache_row_bytes

    def check_engine(self, cache_tokens: int = FIRST_CACHE_TOKENS) -> None:
        """Raise EngineError if the engine and `cache_tokens` cached tokens do not fit."""
        if self.max_cache_tokens < cache_tokens:
            needed = self.engine_bytes + cache_tokens * self.cache_row_bytes
            raise EngineError(
                f"{self.device_name} has {gigabytes(self.free_bytes)} free, the engine needs {gigabytes(needed)}: "
                f"{self.summary}. Use a bundle of a lower precision (fp16, fp8, int8 or w4), "
                "build with a smaller --profile, or free memory on the device"
            )

    def check_cache(self, tokens: int, free_bytes: int) -> None:
        """Raise InputError if a cache of `tokens` rows does not fit beside the loaded engine."""
        needed = tokens * self.cache_row_bytes
        free_bytes -= 0 if self.workspace_is_held else self.workspace_bytes
        if needed > free_bytes:
            raise InputError(
                f"a cache of {tokens:,} tokens needs {gigabytes(needed)} on {self.device_name}, "
                f"{gigabytes(max(0, free_bytes))} are free ({self.cache_row_bytes:,} bytes per token; {self.summary}): "
                "use fewer tiles, shorter responses or fewer sessions at a time"
            )

    @property
    def summary(self) -> str:
        """The parts, for people."""
        return (
            f"weights {gigabytes(self.weights_bytes)}, workspace {gigabytes(self.workspace_bytes)}, "
            f"inputs and outputs {gigabytes(sum(self.inputs_outputs_bytes.values()))}, "
            f"reserve {gigabytes(self.reserve_bytes)}"
        )


def gigabytes(size_bytes: int) -> str:
    """Bytes as people read them: in GB (10^9), or MB if that is less than a tenth of a GB."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.2f} MB"
