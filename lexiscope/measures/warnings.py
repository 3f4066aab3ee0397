"""What the value of a measure warns of, in words."""

POOR_FVE = 0.5
"""A dictionary that explains less of a text's variance was hardly trained on such activations."""


def reconstruction_warning(fve: float | None) -> str:
    """What a low fraction of variance explained on a text suggests, in words; empty where it is not low, or
    unknown.
    """
    if fve is None or fve >= POOR_FVE:
        return ""
    return (
        f"It explains {fve:.2f} of the variance of the residual stream on this text (FVE), where "
        f"dictionaries that fit explain more than {POOR_FVE}: names and evidence may be worthless. Likely "
        "causes: another layer than the one it was trained at, another language model (its base or a "
        "fine-tune), another scale of activations, a residual stream that training had centred, or passages "
        "without BOS."
    )
