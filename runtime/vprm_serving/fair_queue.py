"""Who is next: deficit round robin in tokens, over tenants and, within a tenant, over groups with ageing.

Groups stand in a ring. One that is visited gets a quantum of tokens and runs blocks until they are used up; what a
block took is charged. So a group with a thousand responses cannot keep one with a single response waiting for more
than a quantum. The quantum grows with the age of the group's oldest job: under load the order tends to first come,
first served, and nothing starves.

Tenants (the API key that a group's first request showed) stand in a ring too, without ageing: however many groups one
of them has, each gets the same share of the engine.

Source: M. Shreedhar, G. Varghese, Efficient Fair Queueing Using Deficit Round Robin (1995); the ageing is ours.
"""

from collections import deque

from vprm_serving.jobs import Group

AGE_PER_QUANTUM_S = 1.0


class FairQueue:
    """The ring of tenants that have groups that can run. Not safe for threads."""

    def __init__(self, quantum_tokens: int) -> None:
        self._quantum_tokens = quantum_tokens
        self._tenants: deque[_Tenant] = deque()
        self._homes: dict[Group, _Tenant] = {}

    def __len__(self) -> int:
        return len(self._homes)

    def __contains__(self, group: Group) -> bool:
        return group in self._homes

    def push(self, group: Group) -> None:
        """A group that has become able to run joins at the end, with nothing to its credit."""
        tenant = next((t for t in self._tenants if t.number == group.tenant), None)
        if tenant is None:
            tenant = _Tenant(group.tenant, self._quantum_tokens)
            self._tenants.append(tenant)
        tenant.push(group)
        self._homes[group] = tenant

    def remove(self, group: Group) -> None:
        """A group leaves the ring."""
        tenant = self._homes.pop(group)
        tenant.ring.remove(group)
        if not tenant.ring:
            self._tenants.remove(tenant)

    def pick(self, now: float) -> Group | None:
        """The group that runs the next block; it stays in the ring. `now` is of time.monotonic."""
        while self._tenants:
            tenant = self._tenants[0]
            if tenant.deficit_tokens <= 0:
                tenant.deficit_tokens += self._quantum_tokens
            if tenant.deficit_tokens > 0:
                return tenant.pick(now)
            self._tenants.rotate(-1)
        return None

    def charge(self, group: Group, tokens: int) -> None:
        """What a block took; a group without credit goes to the end, and so does a tenant."""
        tenant = self._homes.get(group)
        if tenant is None:
            return
        tenant.charge(group, tokens)
        if tenant.deficit_tokens <= 0 and self._tenants[0] is tenant:
            self._tenants.rotate(-1)


class _Tenant:
    """A tenant's own ring."""

    def __init__(self, number: int, quantum_tokens: int) -> None:
        self.number, self._quantum_tokens = number, quantum_tokens
        self.ring: deque[Group] = deque()
        self.deficit_tokens = 0.0

    def push(self, group: Group) -> None:
        group.deficit_tokens = 0.0
        self.ring.append(group)

    def pick(self, now: float) -> Group:
        while True:
            group = self.ring[0]
            if group.deficit_tokens > 0:
                return group
            age = max(0.0, now - group.oldest())
            group.deficit_tokens += self._quantum_tokens * (1.0 + age / AGE_PER_QUANTUM_S)
            if group.deficit_tokens > 0:
                return group
            self.ring.rotate(-1)

    def charge(self, group: Group, tokens: int) -> None:
        self.deficit_tokens -= tokens
        group.deficit_tokens -= tokens
        if group.deficit_tokens <= 0 and self.ring[0] is group:
            self.ring.rotate(-1)
