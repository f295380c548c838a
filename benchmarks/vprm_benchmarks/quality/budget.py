"""How much each precision may change: the one table, and the check against it."""

from dataclasses import astuple, dataclass

from vprm_benchmarks.quality.figures import Figures
from vprm_runtime.bundle.manifest import GraphsInfo, Precision


@dataclass(frozen=True)
class Budget:
    """Largest mean step-score error, change of macro F1, and share of choices that flip outside the margin."""

    mean_error: float
    f1_change: float
    flips_outside: float


# fp32 and fp16 differ from a reference by rounding of single products; bf16 has 8 bits of mantissa; w8 rounds weights
# to 1/254 of their range; int8 the activations of each token too; w4 weights to 1/15; E4M3 has 3 bits for both.
BUDGETS: dict[Precision, Budget] = {
    "fp32": Budget(1e-4, 0.001, 0.001),
    "fp16": Budget(1e-3, 0.002, 0.002),
    "bf16": Budget(0.002, 0.002, 0.002),
    "w8": Budget(0.003, 0.002, 0.002),
    "int8": Budget(0.01, 0.005, 0.005),
    "w4": Budget(0.03, 0.015, 0.02),
    "fp8": Budget(0.03, 0.015, 0.02),
}


def budget_of(graphs: GraphsInfo) -> Budget:
    """What a bundle may change: for each figure the larger of what its two graphs' precisions may."""
    llm, vision = BUDGETS[graphs.llm.precision], BUDGETS[graphs.vision.precision]
    return Budget(*(max(pair) for pair in zip(astuple(llm), astuple(vision), strict=True)))


@dataclass(frozen=True)
class Check:
    """One figure beside what the budget allows."""

    name: str
    value: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the figure is within the budget."""
        return self.value <= self.allowed


def check(figures: Figures, budget: Budget) -> tuple[Check, ...]:
    """The budget's figures that the rows could show: without labels no F1, without several responses no choices."""
    checks = [Check("mean step-score error", figures.errors.mean, budget.mean_error)]
    if figures.f1_change is not None:
        checks.append(Check("macro F1 change", figures.f1_change, budget.f1_change))
    if figures.choices.choices:
        checks.append(Check("choice flips outside the margin", figures.choices.flips_outside, budget.flips_outside))
    return tuple(checks)
