"""The templates of text as chat templates, so that a finetuned model is asked the way it was trained.

A trained model carries its template in its tokenizer. For the model's own chat template nothing has to be done; these
two say in Jinja what `pyllm.data.tokens` renders: a conversation under headings, trimmed, with the start token in
front and the end token behind its last answer. What stands beside an instruction is a turn of the role `input`.
"""

import logging
from typing import Any

from pyllm.data.examples import Example
from pyllm.data.tokens import TrainingTemplate, TrainingTokenizer, plain_encoder, text_rows

_log = logging.getLogger(__name__)

_HEADINGS = (
    "{%- set headings = {'system': 'System', 'user': 'Instruction', 'assistant': 'Response', 'tool': 'Tool'} -%}\n"
)

_ALPACA = """\
{{- bos + 'Below is an instruction that describes a task' -}}
{%- if messages | selectattr('role', 'equalto', 'input') | list -%}
{{- ', paired with an input that provides further context' -}}
{%- endif -%}
{{- '. Write a response that appropriately completes the request.' -}}
{%- for message in messages -%}
{{- '\\n\\n### ' + headings.get(message['role'], message['role'] | capitalize) + ':' -}}
{%- if message['role'] != 'assistant' -%}{{- '\\n' -}}{%- endif -%}
{{- (message['content'] or '') | trim -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '\\n\\n### Response:' -}}
{%- elif messages[-1]['role'] == 'assistant' -%}{{- eos -}}{%- endif -%}
"""

_NUGGETS = """\
{{- bos -}}
{%- for message in messages -%}
{{- headings.get(message['role'], message['role'] | capitalize) + ':\\n' + (message['content'] or '') | trim -}}
{%- if not loop.last -%}{{- '\\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '\\nResponse:\\n' -}}
{%- elif messages[-1]['role'] == 'assistant' -%}{{- eos -}}{%- endif -%}
"""

_PROBE = ("Name a colour.", "Red, and no other.")


def chat_template(template: TrainingTemplate, tokenizer: TrainingTokenizer) -> str | None:
    """The Jinja text of a template of text, with the tokenizer's own start and end; None for `chat`."""
    if template == "chat":
        return None
    around = ""
    for name, token, token_id in (("bos", "bos_token", tokenizer.start_id), ("eos", "eos_token", tokenizer.end_id)):
        around += f"{{%- set {name} = {token if token_id is not None else chr(39) * 2} -%}}\n"
    return around + _HEADINGS + (_ALPACA if template == "alpaca" else _NUGGETS)


def give_template(tokenizer: Any, template: TrainingTemplate, described: TrainingTokenizer) -> None:
    """Have a transformers tokenizer carry the template that was trained; one of its own stays for `chat`.

    A tokenizer may join text to the start token otherwise than it begins a text (SentencePiece's `first` does), and no
    chat template can say so: the difference is logged.
    """
    text = chat_template(template, described)
    if template == "chat" or text is None:
        return
    tokenizer.chat_template = text
    instruction, answer = _PROBE
    turns = [{"role": "user", "content": instruction}, {"role": "assistant", "content": answer}]
    (trained,) = text_rows(
        [Example("", "", 0, instruction, None, answer, None, None)],
        template,
        plain_encoder(described),
        start_id=described.start_id,
        end_id=described.end_id,
    )
    asked = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
    if trained is not None and list(asked) != trained.ids:
        _log.warning(
            "the tokenizer of `%s` begins a conversation with other tokens than training does: ask the model with the"
            " text of the template `%s`, without the start token in it",
            described.name,
            template,
        )
