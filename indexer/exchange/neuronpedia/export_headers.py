"""The header lines of a Neuronpedia export: what its importer needs to know of release, model, set and
source, and of the explanations' type and author.
"""

from collections.abc import Mapping
from typing import Any

from lexiscope.neuronpedia import EXPLANATION_MODEL, EXPLANATION_TYPE
from store import DictionaryEntry

CREATOR_NAME = "Lexiscope"

Line = Mapping[str, Any]


def source_headers(entry: DictionaryEntry, *, build: str, creator: str, now: str) -> dict[str, Line]:
    """The line of `<name>.jsonl`, by name. Fields and their defaults are those of Neuronpedia's tables."""
    set_name = entry.source.partition("-")[2]
    release = f"lexiscope-{entry.model}-{set_name}"
    description = (
        f"Lexiscope {set_name}: features of {entry.model} named by its own vocabulary ({entry.recipe}, "
        f"{entry.architecture})"
    )
    notes = (
        f"Names are tokens: nearest {entry.anchor_kind} anchor of each decoder row, with evidence; no "
        "language model wrote them. Contexts were picked by activation; quantiles are fifths of the "
        f"firings. Index build {build}."
    )
    created = {"creatorId": creator, "createdAt": now}
    public = {"visibility": "PUBLIC"}
    return {
        "release": {
            "name": release,
            "description": description,
            "descriptionShort": description,
            "urls": [],
            "creatorNameShort": CREATOR_NAME,
            "isNewUi": False,
            "featured": False,
            "creatorEmail": None,
            "defaultSourceSetName": None,
            "defaultSourceId": None,
            "defaultUmapSourceIds": [],
            "creatorName": CREATOR_NAME,
            **created,
            **public,
        },
        "model": {
            "id": entry.model,
            "instruct": entry.model.endswith("-it"),
            "displayNameShort": entry.model,
            "displayName": entry.model,
            "tlensId": None,
            "dimension": entry.d_in,
            "defaultSourceSetName": None,
            "defaultSourceId": None,
            "website": None,
            "inferenceEnabled": False,
            "layers": 0,
            "neuronsPerLayer": 0,
            "owner": "",
            "updatedAt": now,
            **created,
            **public,
        },
        "sourceset": {
            "modelId": entry.model,
            "name": set_name,
            "description": description,
            "type": "",
            "urls": [],
            "creatorEmail": None,
            "hasDashboards": True,
            "releaseName": release,
            "defaultOfModelId": None,
            "defaultRange": 1,
            "defaultShowBreaks": True,
            "showDfa": False,
            "showCorrelated": False,
            "showHeadAttribution": False,
            "showUmap": False,
            "creatorName": CREATOR_NAME,
            **created,
            **public,
        },
        "source": {
            "id": entry.source,
            "modelId": entry.model,
            "setName": set_name,
            "hasDashboards": True,
            "inferenceEnabled": False,
            "saelensConfig": None,
            "saelensRelease": None,
            "saelensSaeId": None,
            "hfRepoId": None,
            "hfFolderId": None,
            "defaultOfModelId": None,
            "hasUmap": False,
            "hasUmapLogSparsity": False,
            "hasUmapClusters": False,
            "dataset": entry.corpus,
            "notes": notes,
            "num_prompts": entry.n_passages,
            "num_tokens_in_prompt": round(entry.n_tokens / entry.n_passages) if entry.n_passages else 0,
            **created,
            **public,
        },
    }


def explanation_headers(*, creator: str, now: str) -> dict[str, Line]:
    """The line of `config/<name>.jsonl`, by name. Explanations refer to a type and a model by name; both must
    be in Neuronpedia's database before the explanations are imported.
    """
    shared = {
        "description": (
            "The token whose anchor is nearest to the feature's direction, and whether what it fires on "
            "supports that name."
        ),
        "featured": False,
        "url": None,
        "creatorName": CREATOR_NAME,
        "createdAt": now,
        "updatedAt": now,
    }
    return {
        "explanation_type": {
            "name": EXPLANATION_TYPE,
            "displayName": "vocabulary name",
            "isAttention": False,
            "settings": None,
            "creatorId": creator,
            **shared,
        },
        "explanation_model_type": {
            "name": EXPLANATION_MODEL,
            "displayName": "no language model",
            "openRouterModelId": None,
            **shared,
        },
    }
