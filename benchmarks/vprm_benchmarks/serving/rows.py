"""What is sent: images of five tiles for the demo PRM, a question, responses of about 80 tokens."""

from __future__ import annotations

import base64
import io
import itertools

import numpy as np
from PIL import Image

from vprm_benchmarks.serving.load import Request

SIDE_PX = 600  # a square of that size is cut into 2 x 2 tiles and a thumbnail
QUESTION = "Find m \\angle 3."
_counter = itertools.count()


def smooth_image(seed: int) -> str:
    """A smooth image as base64 of a JPEG file; another one for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()


def response(number: int) -> list[str]:
    """Four steps; another text for every number."""
    a, b = 10 + number % 70, 20 + number // 70 % 70
    return [
        f"A right angle is split in two parts of {a}° and {b}°.",
        f"The marked angle is {a}°, as written beside its arc.",
        f"So the other one has 90 - {a} = {90 - a}°.",
        f"So m \\angle 3 = {90 - a}°, not {b}°.",
    ]


def requests(image: str, count: int, responses: int, kind: str = "") -> list[Request]:
    """`count` requests about one image, with responses that nobody has sent before."""
    return [
        Request.of({"image": image, "question": QUESTION, "responses": fresh(responses)}, kind) for _ in range(count)
    ]


def distinct(count: int, responses: int, first_seed: int, kind: str = "") -> list[Request]:
    """`count` requests, each about an image of its own."""
    return [requests(smooth_image(first_seed + number), 1, responses, kind)[0] for number in range(count)]


def fresh(count: int) -> list[list[str]]:
    """New responses."""
    return [response(next(_counter)) for _ in range(count)]
