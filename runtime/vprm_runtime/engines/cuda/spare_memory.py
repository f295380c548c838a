"""Released device memory, kept for the next request of its size: repeated requests then see the same addresses."""

from typing import Any


class SpareMemory:
    """Released allocations by size, kept for the next request of the same size."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}  # of all live addresses
        self._spare: dict[int, list[int]] = {}

    @property
    def spare_bytes(self) -> int:
        """Bytes in released allocations."""
        return sum(size * len(addresses) for size, addresses in self._spare.items())

    def take(self, size_bytes: int) -> int | None:
        """A released allocation of exactly this size, or None."""
        addresses = self._spare.get(size_bytes)
        return addresses.pop() if addresses else None

    def add(self, address: int, size_bytes: int) -> None:
        """Remember a new allocation."""
        self._sizes[address] = size_bytes

    def release(self, address: int) -> None:
        """Keep an allocation for later."""
        self._spare.setdefault(self._sizes[address], []).append(address)

    def drain(self) -> list[int]:
        """All released allocations, which are forgotten here and have to be freed."""
        addresses = [address for spare in self._spare.values() for address in spare]
        self._spare.clear()
        for address in addresses:
            del self._sizes[address]
        return addresses


def free_memory(runtime: Any, memory: SpareMemory) -> None:
    """Give released memory back to the driver. What it says is not looked at: a device that is gone has freed it."""
    for address in memory.drain():
        runtime.cudaFree(address)
