"""Who is refused before being read, and who after."""

import random
from contextlib import ExitStack

import pytest

from vprm_runtime.errors import ServerError
from vprm_serving.admission import Admission, Place
from vprm_serving.settings import Limits

QUEUE_TOKENS = 16_384


def admission_that_knows(sizes: list[int]) -> Admission:
    admission = Admission(Limits(max_queue_tokens=QUEUE_TOKENS), lambda: None)
    for size in sizes:
        with admission.enter(100) as place:
            place.settle(size)
    return admission


def entered(admission: Admission, open_places: ExitStack) -> list[Place]:
    """Everybody who comes in at once, before anyone is read."""
    places = []
    with pytest.raises(ServerError, match="the queue is full"):
        while True:
            places.append(open_places.enter_context(admission.enter(100)))
    return places


def test_who_came_in_among_requests_of_like_size_is_not_refused_later() -> None:
    rng = random.Random(0)
    sizes = [rng.randint(540, 600) for _ in range(400)]
    admission = admission_that_knows(sizes[:200])
    with ExitStack() as open_places:
        places = entered(admission, open_places)
        assert len(places) > 0.8 * QUEUE_TOKENS / 570
        for place, size in zip(places, sizes[200:], strict=False):
            place.settle(size)
    assert (admission.tokens, admission.requests) == (0, 0)


def test_requests_of_very_different_size_do_not_keep_each_other_out() -> None:
    admission = admission_that_knows([10, 10, 10, 1000] * 50)
    with ExitStack() as open_places:
        assert len(entered(admission, open_places)) > 0.5 * QUEUE_TOKENS / 300
