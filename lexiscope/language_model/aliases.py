"""TransformerLens's short names of language models (`gpt2-small`, `pythia-70m-deduped`), which are no names
on the hub.
"""

from pathlib import Path


def hub_name(name: str) -> str:
    """The hub's name behind a name of TransformerLens, by its own table; anything else, and any local path,
    is returned as it is.
    """
    from transformer_lens.supported_models import get_official_model_name

    if Path(name).exists():
        return name
    try:
        return str(get_official_model_name(name))
    except ValueError:
        return name
