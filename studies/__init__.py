"""Studies: each asks one question of a language model and its dictionaries, and ends in a record
(`lexiscope.records.StudyRecord`).

A study is one module with a `STUDY`; its line here is all that the command line and the list need.
"""

from typing import Any

from studies import absorption, circuits, classify, dark_matter, known_token, layers, match, seeds, vectors
from studies.study import Arguments, Findings, Study, StudyError

STUDIES: dict[str, Study[Any]] = {
    study.name: study
    for study in (
        seeds.STUDY,
        dark_matter.STUDY,
        known_token.STUDY,
        match.STUDY,
        classify.STUDY,
        layers.STUDY,
        vectors.STUDY,
        circuits.STUDY,
        absorption.STUDY,
    )
}

__all__ = ["STUDIES", "Arguments", "Findings", "Study", "StudyError"]
