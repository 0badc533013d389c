"""Dialogues in which something is told once and asked for once, much later, among small talk.

A turn's answer may hold a value: the part that can only be known from what was told. Facts are told in one of several
wordings and asked for by their key, and the answer says the key again before the value. Two shapes are mixed: all
facts early and all questions at the end; and facts, questions and small talk through one another, each fact asked for
after a delay of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from pyllm.demo import words


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the user said and what was answered.

    Args:
        said: The user's text.
        answer: The answer up to the value; all of it, where there is no value.
        value: What must be remembered, with a space in front where one belongs there; empty where nothing must be.
        end: The answer behind the value.
    """

    said: str
    answer: str
    value: str = ""
    end: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something told, and the question for it."""

    told: Exchange
    asked: Exchange


_HEARD = ("Good to know.", "Good to know.", "Good to know.", "I see.", "Thank you.", "Very well.")
_NAMED = (
    "My {key} is called {value}.",
    "By the way, my {key} is called {value}.",
    "You may like to hear that my {key} is called {value}.",
    "Did I tell you that my {key} is called {value}?",
    "The name of my {key} is {value}.",
    "I have a {key} and it is called {value}.",
    "We call my {key} {value}.",
    "Please remember that my {key} is called {value}.",
)
_NAME_ASKED = ("What is my {key} called?", "What is my {key} called?", "What is the name of my {key}?",
               "Tell me what my {key} is called.")  # fmt: skip
_KEPT = ("I keep my {key} in the {value}.", "My {key} is in the {value}.", "You will find my {key} in the {value}.")
_KEPT_ASKED = ("Where is my {key}?", "Where do I keep my {key}?")
_SECRET = ("The secret word of {key} is {value}.", "{key} told me the secret word {value}.",
           "If {key} comes, the secret word is {value}.")  # fmt: skip
_SECRET_ASKED = ("What is the secret word of {key}?", "Tell me the secret word of {key}.")
_LIST = ("Please put {value} on the list for {key}.", "For {key} we need {value}.", "Buy {value} on {key}.")
_LIST_ASKED = ("What is on the list for {key}?", "What do we need for {key}?")
_LIKES = ("{key} likes {value}.", "I heard that {key} likes {value}.", "{value} is what {key} likes.")
_LIKES_ASKED = ("What does {key} like?", "Tell me what {key} likes.")


_MANY = 0.6
"""Names and secrets are any word no oftener than this."""


def _name(draw: Random, varied: float) -> str:
    if varied and draw.random() < min(varied, _MANY):
        return draw.choice(words.any_words())
    return draw.choice(words.NAMES) if draw.random() < 0.7 else words.made_up_word(draw).capitalize()


def _thing(draw: Random, varied: float) -> str:
    if varied and draw.random() < varied:
        return draw.choice(words.any_words())
    return draw.choice(words.THINGS) if draw.random() < 0.85 else words.made_up_word(draw)


def _named(draw: Random, key: str, varied: float) -> Fact:
    value = _name(draw, varied)
    told = Exchange(draw.choice(_NAMED).format(key=key, value=value), _heard(draw))
    return Fact(told, Exchange(draw.choice(_NAME_ASKED).format(key=key), f"Your {key} is called", f" {value}", "."))


def _kept(draw: Random, key: str, _varied: float) -> Fact:
    value = draw.choice(words.PLACES)
    told = Exchange(draw.choice(_KEPT).format(key=key, value=value), _heard(draw))
    return Fact(told, Exchange(draw.choice(_KEPT_ASKED).format(key=key), f"Your {key} is in the", f" {value}", "."))


def _secret(draw: Random, key: str, varied: float) -> Fact:
    if varied and draw.random() < min(varied, _MANY):
        value = draw.choice(words.any_words())
    else:
        value = draw.choice(words.SECRETS) if draw.random() < 0.5 else words.made_up_word(draw)
    told = Exchange(draw.choice(_SECRET).format(key=key, value=value), _heard(draw))
    asked = draw.choice(_SECRET_ASKED).format(key=key)
    return Fact(told, Exchange(asked, f"The secret word of {key} is", f" {value}", "."))


def _listed(draw: Random, key: str, _varied: float) -> Fact:
    items = draw.sample(words.ITEMS, draw.choice((1, 2, 2, 3)))
    value = items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
    told = Exchange(draw.choice(_LIST).format(key=key, value=value), _heard(draw))
    return Fact(told, Exchange(draw.choice(_LIST_ASKED).format(key=key), f"For {key} we need", f" {value}", "."))


def _liked(draw: Random, key: str, _varied: float) -> Fact:
    value = draw.choice(words.LIKED)
    told = Exchange(draw.choice(_LIKES).format(key=key, value=value), _heard(draw))
    return Fact(told, Exchange(draw.choice(_LIKES_ASKED).format(key=key), f"{key} likes", f" {value}", "."))


def _heard(draw: Random) -> str:
    return draw.choice(_HEARD)


_KINDS: tuple[tuple[float, Callable[[Random, float], str], Callable[[Random, str, float], Fact]], ...] = (
    (0.55, _thing, _named),
    (0.15, lambda draw, _: draw.choice(words.KEPT), _kept),
    (0.12, _name, _secret),
    (0.08, lambda draw, _: draw.choice(words.DAYS), _listed),
    (0.10, _name, _liked),
)


class Facts:
    """New facts without end: no two of a dialogue have the same key.

    Args:
        draw: Source of chance.
        only_named: Tell names of things only.
        varied: How often a thing, a name or a secret is any word that is not held out, not one of its list.
    """

    def __init__(self, draw: Random, *, only_named: bool = False, varied: float = 0.0) -> None:
        self._draw = draw
        self._varied = varied
        self._used: set[str] = set()
        self._kinds = _KINDS[:1] if only_named else _KINDS

    def next(self) -> Fact:
        """Another fact."""
        weights = [weight for weight, _, _ in self._kinds]
        while True:
            _, key_of, fact_of = self._draw.choices(self._kinds, weights)[0]
            key = key_of(self._draw, self._varied)
            if key not in self._used:
                self._used.add(key)
                return fact_of(self._draw, key, self._varied)


_REPLIES = (
    "I would rather have {one}.",
    "That sounds nice, like {one}.",
    "Was there {one} too?",
    "I know somebody with {one}.",
    "Mine was next to {one}.",
    "I never had {one}.",
    "It reminds me of {one}.",
)


def small_talk(draw: Random) -> Exchange:
    """An exchange that nobody asks for again."""

    def one() -> str:
        return f"{draw.choice(words.ADJECTIVES)} {draw.choice(words.OBJECTS)}"

    # The articles of the bench are always `a`; a few of ours follow the grammar.
    article = words.a if draw.random() < 0.2 else (lambda word: f"a {word}")
    said = f"I {draw.choice(words.DONE)} {article(one())} {draw.choice(words.WHEN)}."
    return Exchange(said, draw.choice(_REPLIES).format(one=article(one())))


def game(draw: Random) -> list[Exchange]:
    """Rounds against a player with a taste: the answer names the move that was played most so far."""
    tastes = [draw.random() ** 2 + 0.05 for _ in words.MOVES]
    played: list[str] = []
    rounds = []
    for _ in range(draw.randrange(4, 12)):
        moves = draw.choices(words.MOVES, tastes)
        said = f"I played {played[-1]}. What comes next?" if played else "Let us play. What do I play?"
        likely = max(words.MOVES, key=lambda move: (played.count(move), -words.MOVES.index(move)))
        rounds.append(Exchange(said, "You play", f" {likely}", "."))
        played += moves
    return rounds


def dialogue(
    draw: Random,
    room: int,
    cost: Callable[[Exchange], int],
    *,
    share: float,
    only_named: bool = False,
    varied: float = 0.0,
) -> list[Exchange]:
    """A dialogue that fills a given room, in which every fact told is asked for once.

    Args:
        draw: Source of chance.
        room: Tokens that there is room for.
        cost: Tokens of an exchange.
        share: Of the room, for facts and their questions; there is at least one.
        only_named: Tell names of things only.
        varied: How often a word is any that is not held out, not one of its list.
    """
    new = Facts(draw, only_named=only_named, varied=varied)
    facts: list[Fact] = []
    left = room
    while True:
        fact = new.next()
        needed = cost(fact.told) + cost(fact.asked)
        if left < needed or (facts and room - left + needed > share * room):
            break
        facts.append(fact)
        left -= needed
    talk: list[Exchange] = []
    while (exchange := small_talk(draw)) and left >= cost(exchange):
        talk.append(exchange)
        left -= cost(exchange)
    return _early_and_late(draw, facts, talk) if draw.random() < 0.5 else _through_one_another(draw, facts, talk)


def _early_and_late(draw: Random, facts: list[Fact], talk: list[Exchange]) -> list[Exchange]:
    border = draw.randrange(len(talk) // 2 + 1)
    early = [*(fact.told for fact in facts), *talk[:border]]
    asked = [fact.asked for fact in facts]
    draw.shuffle(early)
    draw.shuffle(asked)
    return [*early, *talk[border:], *asked]


def _through_one_another(draw: Random, facts: list[Fact], talk: list[Exchange]) -> list[Exchange]:
    # Places on a line: a fact's question stands anywhere behind the fact, near or far with equal chance.
    placed = [(draw.random(), exchange) for exchange in talk]
    for fact in facts:
        start = draw.random()
        placed += [(start, fact.told), (start + (1.0 - start) * draw.random(), fact.asked)]
    return [exchange for _, exchange in sorted(placed, key=lambda pair: pair[0])]


def tokenizer_texts() -> list[str]:
    """One of every wording, for the tokenizer."""
    wordings = (
        *(*_NAMED, *_NAME_ASKED, *_KEPT, *_KEPT_ASKED, *_SECRET, *_SECRET_ASKED, *_LIST, *_LIST_ASKED, *_LIKES),
        *(*_LIKES_ASKED, *_HEARD, *_REPLIES),
    )
    plain = [wording.format(key="a", value="a", one="a") for wording in wordings]
    return [*plain, "Your a is called a. Your a is in the a. For a we need a. Let us play. What do I play? You play a.",
            "I played a. What comes next?"]  # fmt: skip
