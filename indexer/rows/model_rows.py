"""Adds the rows of one model's dictionaries to a build."""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
from torch import Tensor

from indexer.causal.writing import WORDS, content_words
from indexer.rows.analysis import CausalAmounts, CountedModel, analyse, prepare
from indexer.rows.columns import rows
from indexer.rows.context_rows import PassageTexts, context_table, passage_table
from indexer.rows.dictionary_rows import dictionary_row, summary_row, written_table
from indexer.rows.feature_rows import feature_table
from indexer.rows.reconstruction import StreamSample
from indexer.rows.relations import Relations
from indexer.rows.token_rows import token_row_table
from lexiscope.evidence import COMMONEST, PassageWords, SampledText, shown_tokens
from lexiscope.language_model import LanguageModel
from lexiscope.measures import OFTEN
from lexiscope.measures.warnings import reconstruction_warning
from lexiscope.tokens import Vocabulary
from lexiscope.vocabulary_tables import word_table
from store import BuildWriter


def add_model(
    writer: BuildWriter,
    counted: CountedModel,
    lenses: Mapping[int, Tensor],
    *,
    lens_path: str,
    text: str,
    corpus: str,
    contexts: int,
    steered: int,
    say: Callable[[str], None],
) -> None:
    """`lenses` are the Jacobian lenses by layer, where they were fitted, and `lens_path` is where they are
    kept; `text` has the names of the text and `corpus` is its fingerprint; `contexts` are those of the causal
    pass for each feature (0 leaves it out), and `steered` the features and content words of each dictionary
    that it steers.
    """
    model, state = counted.model, counted.state
    first_dictionary, first_passage = writer.next_dictionary_id, writer.next_passage_id
    relations = Relations(counted)
    folded = counted.vocabulary.folded()
    texts, used = PassageTexts(state.passages), [np.zeros(0, np.int64)]
    words, occurrences = counted.tables.words, state.occurrences
    shown = shown_tokens(words, occurrences)
    sampled = SampledText(PassageWords(state.passages, words), state.relations)
    content = content_words(
        counted.vocabulary.raw,
        words,
        shown,
        occurrences,
        n=min(steered, WORDS),
        least=OFTEN,
        common=COMMONEST,
    )
    streams = StreamSample(model, [member.layer for member in counted.members], state.passages)
    causal = CausalAmounts(contexts, steered, content)
    if contexts:
        say("ablating features")
    prepared = prepare(counted, lenses, causal)
    for at, member in enumerate(counted.members):
        say(f"writing the rows of {member.source}")
        lens = lenses.get(member.layer)
        analysed = analyse(
            counted,
            at,
            streams,
            lens,
            sampled,
            prepared[at],
            dictionary_id=first_dictionary + at,
            causal=causal,
        )
        say(f"{member.source} explains {analysed.fve_text:.2f} of the variance of this text (FVE)")
        if warning := reconstruction_warning(analysed.fve_text):
            say(f"WARNING: {member.source}: {warning}")
        features = feature_table(
            analysed,
            relations(at),
            folded=folded,
            occurrences=occurrences,
            shown=shown,
        )
        table, pointed = context_table(
            analysed.counts, texts, dictionary_id=analysed.dictionary_id, first_passage=first_passage
        )
        used.append(pointed)
        links = [None if other is None else first_dictionary + other for other in relations.of_layers(at)]
        writer.add(
            "dictionary",
            dictionary_row(
                model, analysed, state, lens_path=lens_path, text=text, corpus=corpus, links=links
            ),
        )
        writer.add("layer_summary", summary_row(analysed, state))
        writer.add("feature", features)
        writer.add("context", table)
        writer.add("written", written_table(analysed))
        writer.add("token_row", token_row_table(analysed, model))
    numbers = np.unique(np.concatenate(used))
    writer.add("passage", passage_table(state.passages, numbers, first_passage=first_passage, corpus=corpus))
    writer.add("token", token_table(model, counted.vocabulary, occurrences))


def token_table(model: LanguageModel, vocabulary: Vocabulary, occurrences: np.ndarray) -> pa.Table:
    """One row a token; occurrences [vocab] in the text."""
    columns = {
        "model": [model.id] * len(vocabulary),
        "token_id": np.arange(len(vocabulary)),
        "shown": vocabulary.shown,
        "raw": [raw.hex() for raw in vocabulary.raw],
        "folded": vocabulary.folded(),
        "word": word_table(model),
        "count": occurrences,
    }
    return rows("token", columns)
