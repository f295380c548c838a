"""Which of several engines or processes a prefix belongs to: rendezvous hashing, with a way out if its home is swamped.

Source: D. Thaler, C. Ravishankar, A Name-Based Mapping Scheme for Rendezvous (1996). The thresholds are those that
the routers of SGLang and vLLM have by default.
"""

import hashlib
from collections.abc import Sequence

SPILL_RATIO = 1.5
SPILL_REQUESTS = 64


def ranked(key: bytes, count: int) -> list[int]:
    """All of `count` places, the home of the key first; a place more or less moves only the keys that it has."""

    def weight(place: int) -> bytes:
        return hashlib.blake2b(place.to_bytes(4, "little"), key=key[:64], digest_size=8).digest()

    return sorted(range(count), key=weight, reverse=True)


def choose(key: bytes, loads: Sequence[int]) -> int:
    """The home of the key; if it has far more requests than the place with fewest, that one."""
    home = ranked(key, len(loads))[0]
    least = min(range(len(loads)), key=loads.__getitem__)
    is_swamped = loads[home] > SPILL_RATIO * loads[least] and loads[home] > loads[least] + SPILL_REQUESTS
    return least if is_swamped else home
