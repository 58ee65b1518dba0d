"""The word lists of the generator, read from its source."""

import re
from pathlib import Path

LEXICON = (Path(__file__).resolve().parents[2] / "crates/demo/src/lexicon.rs").read_text()
NAMES = ("girl name", "boy name")
PLACES = "PLACES"
# What else a story fixes once and comes back to.
THINGS = ("robot name", "animal name", "animal", "town", "day", "colour", "fruit", "vegetable", "toy", "treasure", PLACES)
REMEMBERED = NAMES + THINGS


def words(lists: tuple[str, ...]) -> list[str]:
    """The entries of these lists that are single words."""
    found = []
    for name in lists:
        if name == PLACES:
            found += re.findall(r'\["(\w+)", "\w+ the ', LEXICON)
        else:
            body = re.search(rf'"{name}" => &\[(.*?)\]', LEXICON, re.DOTALL).group(1)
            found += re.findall(r'"(\w+)"', body)
    return found
