"""What a task needs to make a turn: randomness, the reasoning effort, and words for its slots."""

import dataclasses
import random

from world import words


@dataclasses.dataclass
class Turn:
    """One question with the analysis and the answer that the model shall give.

    `call` is (function name, JSON arguments, JSON result) where the answer needs a tool: then `analysis` leads to the
    call and `final` is what follows the result.
    """

    user: str
    analysis: str
    final: str
    call: tuple | None = None


class Slots:
    """Seeded source of slot words. In evaluation every word is held out of training, in training none is."""

    def __init__(self, rng: random.Random, effort: str, date: str, evaluating: bool = False):
        self.rng = rng
        self.effort = effort
        self.date = date
        self.evaluating = evaluating

    def choice(self, options):
        """One of `options`."""
        return self.rng.choice(options)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.rng.random() < probability

    def think(self, core: str, more: str, most: str, core_last: bool = False) -> str:
        """The analysis: its core always, more at medium effort, and a last check at high effort."""
        if core_last:
            return " ".join({"low": [core], "medium": [more, core], "high": [more, most, core]}[self.effort])
        parts = {"low": [core], "medium": [core, more], "high": [core, more, most]}[self.effort]
        return " ".join(parts)

    def split(self, make, key=str):
        """Calls `make` until the split fits this use.

        Whole words are too few to hold any out: training and evaluation both ask them, equally often among the others.
        """
        for _ in range(300):
            value = make()
            if self.fits(key(value)):
                return value
        return value

    def fits(self, text: str) -> bool:
        """Whether a slot may hold `text` in this use."""
        if words.is_whole(text):
            return not self.evaluating or self.chance(1 / words.HELD_OUT_ONE_IN)
        return words.is_held_out(text) == self.evaluating

    def name(self) -> str:
        """A name, real or made up, with a capital."""
        def make():
            if self.chance(0.4):
                return self.choice(words.NAMES)
            return words.made_up(self.rng).capitalize()
        return self.split(make)

    def city(self) -> str:
        """A city, real or made up."""
        def make():
            if self.chance(0.4):
                return self.choice(words.CITIES)
            return "".join(words.syllable(self.rng) for _ in range(self.rng.randint(2, 4))).capitalize()
        return self.split(make)

    def word(self) -> str:
        """A word in lower case or as it comes: real or made up."""
        def make():
            kind = self.rng.random()
            if kind < 0.10 and not self.evaluating:  # the evaluation meets them as often as the other words
                word = self.choice(words.WHOLE_WORDS)
                return word.capitalize() if self.chance(0.2) else word
            if kind < 0.45:
                return self.choice(words.ENGLISH)
            if kind < 0.55:
                return self.choice(words.ENGLISH).capitalize()
            return words.made_up(self.rng)
        return self.split(make)

    def plain_word(self) -> str:
        """A word of lower-case letters only."""
        def make():
            if not self.evaluating and self.chance(0.12):
                return self.choice(words.WHOLE_WORDS)
            if self.chance(0.5):
                return self.choice(words.ENGLISH)
            return "".join(words.syllable(self.rng) for _ in range(self.rng.randint(1, 4)))
        return self.split(make)

    def korean(self) -> str:
        """A Korean name or made-up word."""
        return self.split(lambda: words.korean(self.rng))

    def anything(self) -> str:
        """What a user may want printed or repeated: a word, a name, a number, Korean, a short phrase."""
        kind = self.rng.random()
        if not self.evaluating and self.chance(0.25):  # several words and syllables are copied wrong most often
            return self.korean() if self.chance(0.2) else self.phrase()
        if kind < 0.33:
            return self.word()
        if kind < 0.62:
            return self.name()
        if kind < 0.70:
            return self.korean()
        if kind < 0.74:
            return str(self.rng.randint(0, 99999))
        return self.phrase()

    def phrase(self) -> str:
        """Two to four words, sometimes with a capital, a comma, a closing mark."""
        parts = [self.word() for _ in range(self.rng.choice([2, 2, 2, 3, 3, 4]))]
        text = (", " if self.chance(0.15) else " ").join(parts)
        if self.chance(0.3):
            text = text[0].upper() + text[1:]
        if self.chance(0.25):
            text += self.choice(["!", "!", ".", "?"])
        return text
