"""The verdict on what a feature writes follows the two interventions alone."""

import pytest
import torch

from lexiscope.evidence import WRITE_VERDICTS, write_verdicts

NAN = float("nan")


@pytest.mark.parametrize(
    ("falls", "q", "rise", "control", "verdict"),
    [
        (0.6, 0.01, 0.2, 0.1, "both"),
        (0.1, 0.01, 0.2, 0.1, "steering"),  # significant, and too seldom
        (0.6, 0.20, 0.2, 0.1, "steering"),
        (0.6, 0.01, 0.1, 0.2, "ablation"),
        (0.6, 0.20, 0.1, 0.2, "none"),
        (0.6, 0.20, 1e-6, -0.1, "none"),  # rounding is no rise
        (0.6, 0.01, NAN, NAN, "untested"),
        (NAN, NAN, 0.2, 0.1, "untested"),
    ],
)
def test_each_intervention_counts_by_itself(
    falls: float, q: float, rise: float, control: float, verdict: str
) -> None:
    given = {"falls": falls, "q": q, "rise": rise, "control": control}
    found = write_verdicts(torch.tensor([True]), **{name: torch.tensor([v]) for name, v in given.items()})
    assert found.tolist() == [verdict] and verdict in WRITE_VERDICTS
    dead = write_verdicts(torch.tensor([False]), **{name: torch.tensor([v]) for name, v in given.items()})
    assert dead.tolist() == ["dead"]
