"""Words that nano's texts are made of, and made-up names without end.

The words that `toolkit stream bench recall` asks about (`HELD_OUT_THINGS`, `HELD_OUT_NAMES`) are known to the tokenizer
and occur in other texts, but no training dialogue ever tells a fact about one of these things or with one of these
names. Nothing is copied from anywhere.
"""

from functools import cache
from random import Random

from pyllm.demo.world import UNKNOWN_NAMES, facts
from pyllm.stream.recall_task import NAMES as HELD_OUT_NAMES
from pyllm.stream.recall_task import THINGS as HELD_OUT_THINGS


def split(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


THINGS = split(
    "dragon hamster rabbit pony goat sheep cow duck goose owl eagle turtle lizard spider snake frog uncle aunt nephew"
    " niece captain pilot dentist lawyer tailor baker butcher plumber painter cook waiter castle palace tavern bakery"
    " library museum factory office hospital station theatre cinema temple forest lake beach valley desert planet star"
    " comet rocket train tram truck car bus plane kite drum flute violin trumpet piano film play opera novel diary club"
    " gang crew tribe tent cabin cottage doll sword shield crown ring bear wolf whale tiger monkey"
)
"""What has a name in training."""
NAMES = split(
    "Agnes Albert Alice Amos Arthur Astrid Boris Celia Chloe Conrad Daisy Dora Edgar Edith Elsa Ernest Esther Eva"
    " Fanny Frank Gerda Gilbert Hanna Harold Hugo Ida Inge Isaac Jane Jasper Joan Jonas Judith Kate Klaus Lena Linda"
    " Louis Lucy Lydia Mabel Magnus Mark Martha Max Mona Morris Nadia Nelly Nils Olga Oliver Pascal Pia Ralph Ruth Sam"
    " Sara Sonja Stella Susan Sven Theo Thomas Ursula Vera Viola Walter Wilma Zoe"
)
"""Names that training dialogues tell, beside made-up ones."""
ITEMS = split(
    "milk bread butter cheese eggs rice flour sugar salt pepper honey jam tea coffee juice apples pears plums grapes"
    " lemons onions carrots beans peas corn beer wine soap paper matches nails thread string glue paint oil"
)
"""What can be bought."""
PLACES = split(
    "kitchen cellar attic barn shed drawer closet hall garage stable bathroom bedroom corner chest sack bucket oven"
    " pocket trunk tunnel cave well yard loft"
)
"""Where something is kept."""
KEPT = split(
    "keys money letters tools gloves boots hat scarf glasses watch camera tickets medicine papers coins stamps candles"
    " cards knife lamp rope shovel axe broom"
)
"""What is kept somewhere."""
SECRETS = split(
    "thunder velvet marble copper cloud pebble feather anchor cactus walnut magnet ribbon pillar meadow shadow whisper"
    " hazel ember saddle mustard saffron glacier compass tulip violet amber coral ivory granite maple"
)
"""Secret words."""
LIKED = split(
    "chess dancing swimming singing fishing sailing reading cooking skating climbing hiking painting knitting sleeping"
    " running riding rowing diving juggling gardening football tennis poker drawing"
)
"""What somebody likes."""
DAYS = split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
ADJECTIVES = split(
    "old green broken quiet heavy strange cheap golden wooden empty round bright frozen narrow dusty painted tiny noisy"
    " yellow crooked red blue large small soft wet clean dark light plain rusty shiny smooth sticky thin warm"
)
OBJECTS = split(
    "ladder kettle bridge carpet candle bicycle window basket mirror bottle wagon lantern pillow hammer fountain engine"
    " blanket statue umbrella barrel cupboard tractor necklace curtain table chair spoon fork plate bowl clock bench"
    " fence gate wheel box bag coat shirt boot button needle brush comb"
)
DONE = split(
    "saw found bought sold lost drew repaired washed carried wanted broke hid moved cleaned borrowed opened dropped"
)
WHEN = (
    *("today", "yesterday", "last week", "this morning", "on Monday", "in the summer", "after lunch", "at night"),
    *("last night", "on Sunday", "before dinner", "in the winter", "two days ago"),
)
MOVES = ("rock", "paper", "scissors")

_ONSETS = split("b d f g h k l m n p r s t v w z br dr gl kr pl tr st sh")
_VOWELS = split("a e i o u ai ea oo")
_CODAS = ("", "", "", "l", "n", "r", "s", "k", "m", "x")


def made_up_word(draw: Random) -> str:
    """A word of two or three syllables that hardly anybody has used before."""
    return "".join(
        draw.choice(_ONSETS) + draw.choice(_VOWELS) + draw.choice(_CODAS) for _ in range(draw.choice((2, 2, 3)))
    )


def a(word: str) -> str:
    """A word behind its article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


@cache
def any_words() -> tuple[str, ...]:
    """Every word above that is not held out, and every name of the world: far more than the lists of one kind."""
    held_out = {*HELD_OUT_THINGS, *HELD_OUT_NAMES}
    names = (*(fact.name for fact in facts()), *UNKNOWN_NAMES)
    return tuple(word for word in dict.fromkeys((*all_words(), *names)) if word not in held_out)


def all_words() -> list[str]:
    """Every word above once: what the tokenizer must know."""
    lists = (
        *(HELD_OUT_THINGS, HELD_OUT_NAMES, THINGS, NAMES, ITEMS, PLACES, KEPT, SECRETS, LIKED, DAYS, ADJECTIVES),
        *(OBJECTS, DONE, MOVES, tuple(word for text in WHEN for word in text.split())),
    )
    return list(dict.fromkeys(word for words in lists for word in words))
