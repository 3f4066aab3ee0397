"""Studies: each asks one question of a language model and its dictionaries, and ends in a record
(`lexiscope.records.StudyRecord`).

A study is one module with a `STUDY`; its line here is all that the command line and the list need.
"""

from typing import Any

from studies import (
    absorption,
    board,
    circuits,
    classify,
    corpus,
    dark_matter,
    forecast,
    known_token,
    layers,
    match,
    optimise,
    saebench,
    seeds,
    topics,
    track,
    unlearn,
    vectors,
)
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
        corpus.STUDY,
        track.STUDY,
        topics.STUDY,
        optimise.STUDY,
        unlearn.STUDY,
        forecast.STUDY,
        saebench.STUDY,
        board.STUDY,
    )
}

__all__ = ["STUDIES", "Arguments", "Findings", "Study", "StudyError"]
