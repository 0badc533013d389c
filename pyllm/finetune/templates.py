"""The templates of text as chat templates, so that a finetuned model is asked the way it was trained.

A trained model carries its template in its tokenizer. For the model's own chat template nothing has to be done; these
two say in Jinja what `pyllm.data.tokens` renders for conversations.
"""

from typing import Any

from pyllm.data.tokens import TrainingTemplate, TrainingTokenizer

_ALPACA = """\
{{- bos -}}
{{- 'Below is an instruction that describes a task. Write a response that appropriately completes the request.' -}}
{{- '\\n\\n' -}}
{%- for message in messages -%}
{%- set content = message['content'] | trim -%}
{%- if message['role'] == 'assistant' -%}
{{- '### Response:' + content -}}
{%- else -%}
{{- '### ' + headings.get(message['role'], message['role'] | capitalize) + ':\\n' + content -}}
{%- endif -%}
{%- if not loop.last -%}{{- '\\n\\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '\\n\\n### Response:' -}}
{%- elif messages[-1]['role'] == 'assistant' -%}{{- eos -}}{%- endif -%}
"""

_NUGGETS = """\
{{- bos -}}
{%- for message in messages -%}
{{- headings.get(message['role'], message['role'] | capitalize) + ':\\n' + message['content'] | trim -}}
{%- if not loop.last -%}{{- '\\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '\\nResponse:\\n' -}}
{%- elif messages[-1]['role'] == 'assistant' -%}{{- eos -}}{%- endif -%}
"""

_HEADINGS = (
    "{%- set headings = {'system': 'System', 'user': 'Instruction', 'assistant': 'Response', 'tool': 'Tool'} -%}\n"
)


def chat_template(template: TrainingTemplate, tokenizer: TrainingTokenizer) -> str | None:
    """The Jinja text of a template of text, with the tokenizer's own start and end; None for `chat`."""
    if template == "chat":
        return None
    around = ""
    for name, token, token_id in (("bos", "bos_token", tokenizer.start_id), ("eos", "eos_token", tokenizer.end_id)):
        around += f"{{%- set {name} = {token if token_id is not None else chr(39) * 2} -%}}\n"
    return around + _HEADINGS + (_ALPACA if template == "alpaca" else _NUGGETS)


def give_template(tokenizer: Any, template: TrainingTemplate, described: TrainingTokenizer) -> None:
    """Have a transformers tokenizer carry the template that was trained; one of its own stays for `chat`."""
    text = chat_template(template, described)
    if text is not None:
        tokenizer.chat_template = text
