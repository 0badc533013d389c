"""The tokenizer of nano: byte-level BPE, so that any text has tokens, in which every word that it knows is one token.

The markers of the scoring template (`Instruction:`, `Input:`, `Response:` with the line breaks around them) are
split off first, with no look-ahead. So the tokens of a query are always a prefix of the tokens of query and answer,
and texts tokenized one by one and joined are what the joined text would give.
"""

import dialogues
import skills
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from writers import STYLES

from pyllm.demo import words
from pyllm.demo.world import SKILLS, ask, facts

BOS, EOS, PAD = "<s>", "</s>", "<pad>"

_PIECES = r"\n?(?:Instruction|Input|Response):\n|\n+| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s"
_MOST_TOKENS = 4_000
"""Never reached: merging ends when every word is one token."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'Response:\n' + message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'Instruction:\n' + message['content'] + '\n' }}"
    "{% else %}{{ raise_exception('only user and assistant turns are known') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Response:\n' }}{% endif %}"
)


def build_tokenizer(context_tokens: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on every fact in every wording.

    Args:
        context_tokens: Longest text the model is made for.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_MOST_TOKENS,
        min_frequency=2,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_texts(), trainer)
    # As Llama's does: the start token in front when special tokens are asked for.
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=context_tokens,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _texts() -> list[str]:
    """Every fact and wording and word, twice so that every word is seen at least twice."""
    rows = [ask(fact, wording, fact.answer) for fact in facts() for wording in range(len(SKILLS[fact.skill].wordings))]
    texts = []
    for row in rows:
        given = f"\nInput:\n{row.input}" if row.input else ""
        texts.append(f"Instruction:\n{row.instruction}{given}\nResponse:\n{row.output}\n\n")
    texts += [style.format("a") for style in STYLES] + dialogues.tokenizer_texts() + skills.tokenizer_texts()
    texts.append("".join(f" {word}" for word in words.all_words()))
    return texts * 2
