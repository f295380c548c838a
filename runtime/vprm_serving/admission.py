"""Who may come in: decided from a request's size and the backlog, before its body is read or anything is decoded.

Used from the event loop only. A place is held from the decision to the answer, and given back whatever happens.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vprm_runtime.errors import InputError, ServerError
from vprm_serving.settings import Limits

_FIRST_GUESS_TOKENS = 256
_RATE_GUESS_TOKENS = 1000.0
_LONGEST_RETRY_S = 300.0
_GAIN = 0.1
_MARGIN = 4.0  # deviations above the mean, but
_MOST_MARGIN = 0.25  # of the mean: requests of very different sizes must not keep each other out


class Place:
    """What one request takes of the queue."""

    def __init__(self, admission: "Admission", held_bytes: int, tokens: int, tenant: int) -> None:
        self._admission, self.tenant = admission, tenant
        self.held_bytes, self.tokens = held_bytes, tokens
        self._counted_tokens = 0
        self._aside_tokens = 0

    def step_aside(self, received_bytes: int) -> None:
        """The body is slow: hold no tokens, and no more bytes than have arrived, until `come_back`."""
        self._admission.add_tokens(-self.tokens, self.tenant)
        self._admission.held_bytes -= self.held_bytes - received_bytes
        self._aside_tokens, self.tokens, self.held_bytes = self.tokens, 0, received_bytes

    def come_back(self) -> None:
        """The body is there. Raises ServerError if the queue has become full; does nothing if it was not slow."""
        if not self._aside_tokens:
            return
        self._admission.check_tokens(self._aside_tokens, self.tenant)
        self._admission.add_tokens(self._aside_tokens, self.tenant)
        self.tokens, self._aside_tokens = self.tokens + self._aside_tokens, 0

    def grow(self, held_bytes: int) -> None:
        """The body turned out to be larger than announced. Raises InputError or ServerError as `enter` does."""
        self._admission.check_bytes(held_bytes, held_bytes - self.held_bytes)
        self._admission.held_bytes += held_bytes - self.held_bytes
        self.held_bytes = held_bytes

    def settle(self, tokens: int) -> None:
        """The tokens of a row are counted: they replace the guess, and add up over several rows.

        Raises InputError if they can never fit, ServerError if they do not fit now.
        """
        admission = self._admission
        admission.learn(tokens)
        tokens += self._counted_tokens
        limit = admission.tenant_limit_tokens
        if tokens > limit:
            raise InputError(
                f"the request takes {tokens:,} tokens, the queue holds {limit:,} of a caller: send fewer responses at "
                "once, or give the server more --max-queue-tokens",
                code="too_large",
            )
        admission.check_tokens(tokens - self.tokens, self.tenant)
        admission.add_tokens(tokens - self.tokens, self.tenant)
        self.tokens = self._counted_tokens = tokens


class Admission:
    """The backlog, in requests, tokens and bytes."""

    def __init__(self, limits: Limits, tokens_per_s: Callable[[], float | None], tenants: int = 1) -> None:
        """With several tenants, one of them can fill a part of the queue only, so that others always find room."""
        self.limits = limits
        share = 1.0 if tenants < 2 else limits.tenant_share
        self.tenant_limit_tokens = round(share * limits.max_queue_tokens)
        self._tenant_tokens: Counter[int] = Counter()
        self.requests = 0
        self.tokens = 0
        self.held_bytes = 0
        self.refused = 0
        self._tokens_per_s = tokens_per_s
        self._usual_tokens = float(_FIRST_GUESS_TOKENS)
        self._deviation_tokens = 0.0

    @contextmanager
    def enter(self, content_length: int | None, tenant: int = 0) -> Iterator[Place]:
        """A place for a request of a tenant, for as long as the block lasts.

        Raises InputError, code too_large, if the body is beyond the limit, ServerError, code overloaded, if the queue
        is full.
        """
        held = content_length or 0
        self.check_bytes(held, held)
        guess = min(self._guess(), self.tenant_limit_tokens)
        self.check_tokens(guess, tenant)
        place = Place(self, held, guess, tenant)
        self.requests += 1
        self.add_tokens(guess, tenant)
        self.held_bytes += held
        try:
            yield place
        finally:
            self.requests -= 1
            self.add_tokens(-place.tokens, tenant)
            self.held_bytes -= place.held_bytes

    def check_bytes(self, size: int, more: int) -> None:
        """Raise as `enter` does for a body of `size` bytes that needs `more` bytes than are reserved for it."""
        if size > self.limits.max_body_bytes:
            raise InputError(
                f"the body has {size:,} bytes or more, at most {self.limits.max_body_bytes:,} are read: upload images "
                "with PUT /v1/images/DIGEST, or send fewer responses",
                code="too_large",
            )
        if self.held_bytes + more > self.limits.max_held_bytes:
            raise self.overloaded()

    def check_tokens(self, more: int, tenant: int) -> None:
        """Raise ServerError if the queue, or the tenant's part of it, has no room for so many more tokens."""
        own = self._tenant_tokens[tenant] + more
        if self.tokens + more > self.limits.max_queue_tokens or own > self.tenant_limit_tokens:
            raise self.overloaded()

    def add_tokens(self, more: int, tenant: int) -> None:
        """Count a tenant's tokens; less than none of them are taken away."""
        self.tokens += more
        self._tenant_tokens[tenant] += more

    def overloaded(self) -> ServerError:
        """The refusal, with the time after which half of the backlog will be done."""
        self.refused += 1
        wait_s = self.retry_after_s()
        return ServerError(
            f"the queue is full ({self.tokens:,} tokens wait, at most {self.limits.max_queue_tokens:,}): try again in "
            f"{wait_s:.0f} s",
            code="overloaded",
            retry_after_s=wait_s,
        )

    def retry_after_s(self) -> float:
        """Seconds until half of the backlog is done, 1 at least."""
        rate = self._tokens_per_s() or _RATE_GUESS_TOKENS
        return min(_LONGEST_RETRY_S, max(1.0, 0.5 * self.tokens / rate))

    def learn(self, tokens: int) -> None:
        """How large requests usually are, and how far from it."""
        error = tokens - self._usual_tokens
        self._usual_tokens += _GAIN * error
        self._deviation_tokens += _GAIN * (abs(error) - self._deviation_tokens)

    def _guess(self) -> int:
        """Tokens of a request that is not read yet; rather too many, so that few are refused only after they are read.

        Source: V. Jacobson, Congestion Avoidance and Control (1988), which estimates round trips in this way.
        """
        return round(self._usual_tokens + min(_MARGIN * self._deviation_tokens, _MOST_MARGIN * self._usual_tokens))
