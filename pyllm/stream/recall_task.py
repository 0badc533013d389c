"""A task that asks for far memory and nothing else: names are told early, small talk follows, and each is asked for.

A dialogue is made of a seed and of plain words, so it fits any tokenizer. Facts ("my boat is called Clara") stand at
random places in its first third, small talk fills the rest up to a wanted number of tokens, and every fact is asked
for at the end. The answer is opened with the words that lead to the name ("Your boat is called"), so that a name is
the next thing that a model which knows it says, however talkative it is otherwise. Names within a dialogue differ,
and so do the things that have them; neither is a word of the small talk.
"""

import random
from dataclasses import dataclass

import polars as pl

from pyllm.data.framing import Tokenizer
from pyllm.errors import SettingError
from pyllm.stream.turns import TurnTemplate, read_turns


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


THINGS = _words(
    "boat cat dog horse garden street village school teacher doctor sister brother cousin friend neighbour ship farm"
    " shop team band song poem robot guitar hotel island river mountain donkey parrot puppet orchard"
)
"""What has a name."""
NAMES = _words(
    "Anna Bruno Clara David Emma Felix Greta Henry Iris Jacob Karen Leo Maria Nora Oscar Paula Quentin Rosa Simon Tina"
    " Victor Wanda Xavier Yvonne Adam Bella Carl Diana Erik Flora Gustav Helen Ivan Julia Kevin Laura Martin Nina Otto"
    " Peter"
)
"""The names."""
_TOLD = (
    "My {thing} is called {name}.",
    "By the way, my {thing} is called {name}.",
    "You may like to hear that my {thing} is called {name}.",
    "Did I tell you that my {thing} is called {name}?",
    "The name of my {thing} is {name}.",
)
_HEARD = "Good to know."
_ASKED = "What is my {thing} called?"
_OPENING = "Your {thing} is called"
_ADJECTIVES = _words(
    "old green broken quiet heavy strange cheap golden wooden empty round bright frozen narrow dusty painted tiny noisy"
    " yellow crooked"
)
_OBJECTS = _words(
    "ladder kettle bridge carpet candle bicycle window basket mirror bottle wagon lantern pillow hammer fountain engine"
    " blanket statue umbrella barrel cupboard tractor necklace curtain"
)
_DONE = ("saw", "found", "bought", "sold", "lost", "drew", "repaired", "washed", "carried", "wanted")
_WHEN = ("today", "yesterday", "last week", "this morning", "on Monday", "in the summer", "after lunch", "at night")
_REPLIES = (
    "I would rather have a {adjective} {object}.",
    "That sounds nice, like a {adjective} {object}.",
    "Was there a {adjective} {object} too?",
    "I know somebody with a {adjective} {object}.",
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked at the end.

    Args:
        ids: The user's turn, up to where the name begins.
        alone: The same as the very first turn of a dialogue.
        names: Token ids of every name that was told in the dialogue.
        told: Which of them is the answer.
    """

    ids: tuple[int, ...]
    alone: tuple[int, ...]
    names: tuple[tuple[int, ...], ...]
    told: int


@dataclass(frozen=True, slots=True)
class RecallDialogue:
    """One dialogue of the task.

    Args:
        history: Its turns, as token ids.
        fact_turns: Which of them tell a fact, in the order of `names`.
        names: The names told.
        questions: One for every fact, in the same order.
    """

    history: tuple[tuple[int, ...], ...]
    fact_turns: tuple[int, ...]
    names: tuple[str, ...]
    questions: tuple[Question, ...]

    @property
    def tokens(self) -> int:
        """Tokens before the questions."""
        return sum(len(turn) for turn in self.history)


def recall_dialogue(
    tokenizer: Tokenizer, *, facts: int, tokens: int, seed: int, number: int, template: TurnTemplate, vocabulary: int
) -> RecallDialogue:
    """Make one dialogue.

    Args:
        tokenizer: The model's.
        facts: How many names are told and asked for.
        tokens: About how many tokens come before the questions.
        seed: Of the whole task.
        number: Which dialogue of the task.
        template: How texts become turns.
        vocabulary: How many tokens the model knows.

    Raises:
        SettingError: There are too many facts for the words that are here, or for a third of so many tokens.
    """
    if not 2 <= facts <= len(THINGS):
        raise SettingError(f"facts is {facts}: it must be from 2 to {len(THINGS)}")
    # A text as a seed is hashed with SHA-512, the same everywhere.
    draw = random.Random(f"recall {seed} {number}")
    things, names = draw.sample(THINGS, facts), draw.sample(NAMES, facts)
    told = [(telling(draw, thing, name), _HEARD) for thing, name in zip(things, names, strict=True)]

    def turns_of(said: list[tuple[str, str]]) -> list[tuple[int, ...]]:
        messages = [
            {"role": role, "content": text}
            for turn in said
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        return _ids(pl.DataFrame({"dialogue_id": [0], "messages": [messages]}), tokenizer, template, vocabulary)

    def cost(turn: tuple[str, str]) -> int:
        return sum(len(ids) for ids in tokenizer(list(turn), add_special_tokens=False)["input_ids"])

    # The second turn of two shows what the template writes around a turn.
    around = len(turns_of([told[0], told[1]])[1]) - cost(told[1])
    early, left = list(told), tokens / 3 - sum(cost(turn) + around for turn in told)
    if left < 0:
        raise SettingError(
            f"{facts} facts do not fit into the first third of {tokens:,} tokens",
            hint=f"give at least {3 * sum(cost(turn) + around for turn in told):,} tokens, or fewer facts",
        )
    late: list[tuple[str, str]] = []
    while left > 0:
        early.append(small_talk(draw))
        left -= cost(early[-1]) + around
    left += 2 * tokens / 3
    while left > 0:
        late.append(small_talk(draw))
        left -= cost(late[-1]) + around
    order = list(range(len(early)))
    draw.shuffle(order)
    history = turns_of([early[place] for place in order] + late)
    fact_turns = tuple(order.index(fact) for fact in range(facts))
    questions = _questions(tokenizer, template, vocabulary, things, names)
    return RecallDialogue(tuple(history), fact_turns, tuple(names), questions)


def telling(draw: random.Random, thing: str, name: str) -> str:
    """A sentence that tells a name."""
    return draw.choice(_TOLD).format(thing=thing, name=name)


def asking(thing: str) -> str:
    """The question for a name."""
    return _ASKED.format(thing=thing)


def small_talk(draw: random.Random) -> tuple[str, str]:
    """A sentence about nothing, and what may be answered."""
    said = f"I {draw.choice(_DONE)} a {draw.choice(_ADJECTIVES)} {draw.choice(_OBJECTS)} {draw.choice(_WHEN)}."
    return said, draw.choice(_REPLIES).format(adjective=draw.choice(_ADJECTIVES), object=draw.choice(_OBJECTS))


def _questions(
    tokenizer: Tokenizer, template: TurnTemplate, vocabulary: int, things: list[str], names: list[str]
) -> tuple[Question, ...]:
    asked = [asking(thing) for thing in things]
    # The first row opens the dialogue, the others do not; as dialogues of their own, all of them do.
    inside = pl.DataFrame({"dialogue_id": 0, "turn": range(len(asked) + 1), "text": [asked[0], *asked]})
    alone = pl.DataFrame({"dialogue_id": range(len(asked)), "turn": 0, "text": asked})
    later = _ids(inside, tokenizer, template, vocabulary)[1:]
    first = _ids(alone, tokenizer, template, vocabulary)
    questions = []
    spaced = template == "vicuna" or (template == "auto" and not tokenizer.chat_template)
    for place, thing in enumerate(things):
        # Behind a colon the space belongs to the answer; a template ends where the answer begins.
        before, opening = (":", " " + _OPENING) if spaced else ("", _OPENING)
        opening = opening.format(thing=thing)
        opened = _behind(tokenizer, before, opening)
        told = tuple(tuple(_behind(tokenizer, before + opening, f" {name}")) for name in names)
        questions.append(Question((*later[place], *opened), (*first[place], *opened), told, place))
    return tuple(questions)


def _behind(tokenizer: Tokenizer, before: str, text: str) -> list[int]:
    """Token ids of a text that stands behind another."""
    start, whole = ([*tokenizer([each], add_special_tokens=False)["input_ids"][0]] for each in (before, before + text))
    if whole[: len(start)] == start and len(whole) > len(start):
        return whole[len(start) :]
    return [*tokenizer([text], add_special_tokens=False)["input_ids"][0]]


def _ids(table: pl.DataFrame, tokenizer: Tokenizer, template: TurnTemplate, vocabulary: int) -> list[tuple[int, ...]]:
    turns = read_turns(table, "the task", vocabulary=vocabulary, tokenizer=lambda: tokenizer, template=template)
    return [turn.token_ids for turn in turns]
