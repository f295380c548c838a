"""Who is next: deficit round robin over groups, in tokens, with ageing.

Groups stand in a ring. One that is visited gets a quantum of tokens and runs blocks until they are used up; what a
block took is charged. So a group with a thousand responses cannot keep one with a single response waiting for more
than a quantum. The quantum grows with the age of the group's oldest job: under load the order tends to first come,
first served, and nothing starves.

Source: M. Shreedhar, G. Varghese, Efficient Fair Queueing Using Deficit Round Robin (1995); the ageing is ours.
"""

from collections import deque

from vprm_serving.jobs import Group

AGE_PER_QUANTUM_S = 1.0


class FairQueue:
    """The ring of groups that can run. Not safe for threads."""

    def __init__(self, quantum_tokens: int) -> None:
        self._quantum_tokens = quantum_tokens
        self._ring: deque[Group] = deque()

    def __len__(self) -> int:
        return len(self._ring)

    def __contains__(self, group: Group) -> bool:
        return group in self._ring

    def push(self, group: Group) -> None:
        """A group that has become able to run joins at the end, with nothing to its credit."""
        group.deficit_tokens = 0.0
        self._ring.append(group)

    def remove(self, group: Group) -> None:
        """A group leaves the ring."""
        self._ring.remove(group)

    def pick(self, now: float) -> Group | None:
        """The group that runs the next block; it stays in the ring. `now` is of time.monotonic."""
        while self._ring:
            group = self._ring[0]
            if group.deficit_tokens > 0:
                return group
            age = max(0.0, now - group.oldest())
            group.deficit_tokens += self._quantum_tokens * (1.0 + age / AGE_PER_QUANTUM_S)
            if group.deficit_tokens > 0:
                return group
            self._ring.rotate(-1)
        return None

    def charge(self, group: Group, tokens: int) -> None:
        """What a block took; a group without credit goes to the end."""
        group.deficit_tokens -= tokens
        if group.deficit_tokens <= 0 and self._ring and self._ring[0] is group:
            self._ring.rotate(-1)
