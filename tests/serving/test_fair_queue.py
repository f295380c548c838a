"""Who is next, without an engine and without a clock."""

from __future__ import annotations

from collections import Counter

import pytest

from vprm_serving.fair_queue import FairQueue
from vprm_serving.jobs import Group, Job
from vprm_serving.rendezvous import SPILL_REQUESTS, choose, ranked


def group(name: str, arrived: float = 0.0) -> Group:
    made = Group(name.encode())
    job = Job()
    job.arrived = arrived
    made.jobs.append(job)
    return made


def test_tokens_are_shared_equally_whatever_the_size_of_blocks() -> None:
    queue = FairQueue(quantum_tokens=100)
    sizes = {"small": 10, "large": 128}
    groups = {name: group(name) for name in sizes}
    for one in groups.values():
        queue.push(one)
    ran: Counter[str] = Counter()
    for _ in range(2000):
        picked = queue.pick(0.0)
        assert picked is not None
        name = picked.key.decode()
        queue.charge(picked, sizes[name])
        ran[name] += sizes[name]
    assert ran["small"] == pytest.approx(ran["large"], rel=0.05)


def test_a_group_that_has_waited_longer_gets_more() -> None:
    queue = FairQueue(quantum_tokens=100)
    old, new = group("old", arrived=0.0), group("new", arrived=9.0)
    queue.push(old)
    queue.push(new)
    ran: Counter[str] = Counter()
    for _ in range(1000):
        picked = queue.pick(10.0)
        assert picked is not None
        queue.charge(picked, 50)
        ran[picked.key.decode()] += 50
    assert ran["old"] > 3 * ran["new"] > 0


def test_nothing_starves_behind_a_block_beyond_the_quantum() -> None:
    queue = FairQueue(quantum_tokens=10)
    huge, small = group("huge"), group("small")
    queue.push(huge)
    queue.push(small)
    first = queue.pick(0.0)
    assert first is huge
    queue.charge(huge, 10_000)
    for _ in range(900):
        picked = queue.pick(0.0)
        assert picked is small
        queue.charge(small, 10)
    queue.remove(small)
    assert queue.pick(0.0) is huge


def test_tenants_share_equally_however_many_groups_they_have() -> None:
    """New groups all the time do not help: each would run one block before anybody else's turn came."""
    queue = FairQueue(quantum_tokens=100)
    modest = group("modest")
    modest.tenant = 1
    queue.push(modest)
    ran: Counter[int] = Counter()
    for number in range(1000):
        queue.push(group(f"greedy {number}", arrived=-float(number)))
        picked = queue.pick(1000.0)
        assert picked is not None
        queue.charge(picked, 60)
        ran[picked.tenant] += 60
        if picked is not modest:
            queue.remove(picked)
    assert ran[0] == pytest.approx(ran[1], rel=0.05)


def test_an_empty_queue_has_nobody() -> None:
    assert FairQueue(10).pick(0.0) is None


def test_a_place_less_moves_only_its_own_keys() -> None:
    keys = [f"key {n}".encode() for n in range(300)]
    before = {key: ranked(key, 4)[0] for key in keys}
    assert set(Counter(before.values())) == {0, 1, 2, 3}
    for key, home in before.items():
        if home != 3:
            assert ranked(key, 3)[0] == home


def test_a_swamped_home_gives_way() -> None:
    key = b"key"
    home = ranked(key, 2)[0]
    loads = [0, 0]
    assert choose(key, loads) == home
    loads[home] = SPILL_REQUESTS
    assert choose(key, loads) == home
    loads[home] = SPILL_REQUESTS + 1
    assert choose(key, loads) == 1 - home
