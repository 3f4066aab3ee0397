"""One dictionary in one line."""

from pydantic import Field, computed_field

from lexiscope.measures import DERIVED, DICTIONARY
from lexiscope.measures.warnings import reconstruction_warning
from lexiscope.records.record import Record, measured

EVERY_K = ("hierarchical", "msae")
"""recipes whose dictionaries are trained for every k"""


class LayerSummary(Record):
    """One dictionary in one line: what the layer plots and tables need."""

    model: str
    source: str
    layer: int
    recipe: str
    origin: str = Field(
        description="the library that trained it: lexiscope, saelens, sparsify, vasae (the paper's authors), "
        "gemma-scope, dictionary_learning, llamascopium, qwen-scope, linear-layers; neuronpedia for an import"
    )
    architecture: str = Field(
        description="as its own library calls it: topk, batchtopk, jumprelu, gated, standard, …"
    )
    d_in: int
    d_sae: int = measured(DICTIONARY["d_sae"])
    k: int = Field(description="active features a token; 0 where no fixed number is selected (see l0)")
    l0: float = measured(DICTIONARY["l0"])
    anchor_kind: str
    n_live: int = measured(DICTIONARY["n_live"])
    dead_share: float = measured(DICTIONARY["dead_share"])
    aligned_all: float = measured(DICTIONARY["aligned_all"])
    aligned_live: float = measured(DICTIONARY["aligned_live"])
    aligned_firing: float = measured(DICTIONARY["aligned_firing"])
    aligned_energy: float = measured(DICTIONARY["aligned_energy"])
    aligned_live_embedding: float = measured(DICTIONARY["aligned_live_embedding"])
    aligned_firing_embedding: float = measured(DICTIONARY["aligned_firing_embedding"])
    holds_live: float | None = measured(DICTIONARY["holds_live"], None)
    holds_tested: float | None = measured(DICTIONARY["holds_tested"], None)
    holds_firing: float | None = measured(DICTIONARY["holds_firing"], None)
    specific_live: float | None = measured(DICTIONARY["specific_live"], None)
    tested_live: float | None = measured(DICTIONARY["tested_live"], None)
    share_tested: float | None = measured(DICTIONARY["share_tested"], None)
    chance_tested: float | None = measured(DICTIONARY["chance_tested"], None)
    finds: float | None = measured(DICTIONARY["finds"], None)
    finds_rows: float | None = measured(DERIVED["finds_rows"], None)
    writes: float | None = measured(DICTIONARY["writes"], None)
    writes_over_features: float | None = measured(DICTIONARY["writes_over_features"], None)
    writes_logit: float | None = measured(DICTIONARY["writes_logit"], None)
    writes_rows: float | None = measured(DICTIONARY["writes_rows"], None)
    write_steering: float | None = measured(DICTIONARY["write_steering"], None)
    write_ablation: float | None = measured(DICTIONARY["write_ablation"], None)
    half_live: float = measured(DICTIONARY["half_live"])
    coverage: float = measured(DICTIONARY["coverage"])
    ablation_top1: float | None = measured(DICTIONARY["ablation_top1"], None)
    ablation_top5: float | None = measured(DICTIONARY["ablation_top5"], None)
    verdicts: dict[str, int] = Field(description="features by verdict")
    verdict_firings: dict[str, float] = Field(
        description="share of all firings by the verdict of the feature that fires"
    )
    write_verdicts: dict[str, int] = Field({}, description="features by the verdict on what they write")
    random_cosine: float = measured(DICTIONARY["random_cosine"])
    fve_text: float | None = measured(DICTIONARY["fve_text"], None)
    fve: float | None = measured(DICTIONARY["fve"], None)
    delta_ce: float | None = measured(DICTIONARY["delta_ce"], None)
    dense_share: float | None = measured(DICTIONARY["dense_share"], None)
    lookup_share: float | None = measured(DICTIONARY["lookup_share"], None)
    index_tokens: int = measured(DICTIONARY["index_tokens"])
    text: str = Field("", description="files or data sets of the indexed text; empty where they are unknown")

    @computed_field(  # type: ignore[prop-decorator]
        description="part of the reconstruction's covariance with x that no feature gives: `dense_share` and "
        "`lookup_share` together; null where neither was recorded"
    )
    @property
    def bypass(self) -> float | None:
        known = [share for share in (self.dense_share, self.lookup_share) if share is not None]
        return sum(known) if known else None

    @computed_field(description="it was trained to be read with any number of features a token up to k")  # type: ignore[prop-decorator]
    @property
    def every_k(self) -> bool:
        return self.k > 0 and self.recipe in EVERY_K

    @computed_field(description="why its figures may be worthless; empty where nothing suggests it")  # type: ignore[prop-decorator]
    @property
    def warning(self) -> str:
        return reconstruction_warning(self.fve_text)
