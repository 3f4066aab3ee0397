"""Texts that the reading page offers, each of which shows something else."""

from typing import NamedTuple


class Example(NamedTuple):
    label: str
    text: str
    contrast: str = ""


EXAMPLES = (
    Example("a little story", "The little girl went to the garden and saw a red bird. She was happy."),
    Example("capitals", "Paris is the capital of France, and Rome is the capital of Italy."),
    Example("who is she?", "The doctor told the nurse that her patient was here, and she went to him."),
    Example("kings and numbers", "In 1603 the old king died, and his three sons divided the land."),
    Example("one word, two senses", "She sat on the bank of the river and counted the money from the bank."),
    Example("speech", '"Come in," he said. "I have been waiting for you all night."'),
    Example("code", "for i in range(10):\n    print(i * i)"),
    Example(
        "true against false",
        "The sun rises in the east, and ice is cold.",
        "The sun rises in the west, and ice is hot.",
    ),
)
