"""What tests of the runtime share: a scorer with random weights, and rows for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.rows import forty_rows

from vprm_runtime import StepScorer


@pytest.fixture(scope="session")
def scorer(random_scorer: Callable[[str], StepScorer]) -> StepScorer:
    """Random weights at test width."""
    return random_scorer("internlm2")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 rows about 8 images, in mixed order, and the images."""
    return forty_rows(tmp_path_factory.mktemp("data"))
