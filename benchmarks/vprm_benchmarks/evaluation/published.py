"""Published results, to be shown beside one's own on the real benchmark."""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "VisualPRM, arXiv 2503.10291"

VISUAL_PROCESS_BENCH_SOURCES = {
    "MMMU_DEV_VAL": "MMMU",
    "MathVision_MINI": "MathVision",
    "MathVerse_MINI_Vision_Only": "MathVerse",
    "DynaMath": "DynaMath",
    "WeMath": "WeMath",
}
"""`data_source` values of OpenGVLab/VisualProcessBench, and the names that the paper gives them."""


@dataclass(frozen=True)
class PublishedF1:
    """Macro F1 in percent, overall and by source (names as in the paper)."""

    model: str
    overall: float
    sources: dict[str, float]
    source: str = PAPER


PUBLISHED_F1 = (
    PublishedF1(
        "VisualPRM-8B",
        62.0,
        {"MMMU": 58.5, "MathVision": 62.1, "MathVerse": 61.0, "DynaMath": 62.7, "WeMath": 61.8},
    ),
    PublishedF1("GPT-4o", 60.3, {}),
    PublishedF1("InternVL2.5-8B", 48.0, {}),
)


@dataclass(frozen=True)
class PublishedBestOfN:
    """Mean accuracy in percent over the paper's seven benchmarks, VisualPRM-8B choosing among N responses."""

    policy: str
    pass_at_1: float
    best_of_n: dict[int, float]
    source: str = PAPER


PUBLISHED_BEST_OF_N = (
    PublishedBestOfN("InternVL2.5-8B", 32.8, {8: 41.2, 16: 42.0, 32: 42.7, 64: 43.5, 128: 44.0}),
    PublishedBestOfN("InternVL2.5-78B", 46.0, {8: 51.9}),
)


def is_visual_process_bench(sources: set[str]) -> bool:
    """Whether rows with these `data_source` values are the benchmark's, all or some of them."""
    return bool(sources) and sources <= set(VISUAL_PROCESS_BENCH_SOURCES)
