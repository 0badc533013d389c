"""Options of the commands that have a model write: which one, where it is, and how it is asked."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _models
from pyllm.errors import SettingError

if TYPE_CHECKING:
    from pyllm.lm.backends.contract import Backend

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"


class TrainedTemplate(StrEnum):
    """Templates of text that `toolkit finetune` trains under."""

    ALPACA = "alpaca"
    NUGGETS = "nuggets"


class PromptTemplate(StrEnum):
    """How prompts become what a local model reads."""

    AUTO = "auto"
    CHAT = "chat"
    NONE = "none"


ModelOption = Annotated[
    str,
    typer.Option(
        "--model", metavar="M", help="A folder, a hub id or the embedded `nano`; with --endpoint, the name it serves."
    ),
]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="Ask this OpenAI-compatible server, as in http://127.0.0.1:8000/v1, instead of a model in this process.",
        show_default=False,
    ),
]
ApiKeyEnvOption = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        metavar="NAME",
        help=f"Environment variable that holds the endpoint's key. Default: {DEFAULT_KEY_VARIABLE}, if it is set.",
        show_default=False,
    ),
]
ConcurrencyOption = Annotated[
    int, typer.Option("--concurrency", metavar="N", min=1, help="Requests under way at an endpoint.")
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", help="Most seconds of one attempt at an endpoint.")
]
RetriesOption = Annotated[
    int, typer.Option("--retries", metavar="N", min=0, help="Further attempts when an endpoint cannot answer now.")
]
TemplateOption = Annotated[
    PromptTemplate,
    typer.Option("--template", help="Of local models. auto: the model's chat template if it has one, else plain text."),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Requests that a local model reads at once. Default: 16, 64 on a GPU.",
        show_default=False,
    ),
]
ReuseOption = Annotated[
    bool, typer.Option("--reuse/--no-reuse", help="Compute once what prompts for a local model share.")
]
MaxNewTokensOption = Annotated[
    int | None,
    typer.Option("--max-new-tokens", metavar="N", min=1, help="Most tokens of an answer.", show_default=False),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(
        "--temperature", metavar="T", min=0, help="0, the default, takes the likeliest token.", show_default=False
    ),
]
TopPOption = Annotated[
    float | None,
    typer.Option("--top-p", metavar="P", help="Choose among the likeliest tokens of this share.", show_default=False),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """Which model writes, and how it is asked: what the options of these names were given."""

    model: str
    endpoint: str | None
    api_key_env: str | None
    concurrency: int
    timeout: float
    retries: int
    template: PromptTemplate = PromptTemplate.AUTO
    trained_template: TrainedTemplate | None = None
    dtype: _models.Dtype
    device: str
    batch_size: int | None
    reuse: bool = True
    seed: int

    def open(self) -> "Backend":
        """The model, ready to answer.

        Raises:
            SettingError: The options contradict each other.
            PrerequisiteError: The model, the device or the key is not there.
        """
        return self._local() if self.endpoint is None else self._served(self.endpoint)

    def _local(self) -> "Backend":
        if self.api_key_env is not None:
            raise SettingError("`--api-key-env` is for endpoints", hint="add --endpoint URL")
        from pyllm.lm.sources import find_model

        source = find_model(self.model)

        from pyllm.lm.backends.local import load_local_backend
        from pyllm.lm.loading import choose_device, choose_dtype, load_config

        place = choose_device(self.device)
        return load_local_backend(
            source,
            device=place,
            dtype=choose_dtype(self.dtype.value, place, load_config(source)),
            template=self.template.value,
            trained_template=None if self.trained_template is None else self.trained_template.value,
            reuse=self.reuse,
            batch_rows=self.batch_size,
        )

    def _served(self, endpoint: str) -> "Backend":
        if self.trained_template is not None:
            raise SettingError("`--trained-template` is for local models: a server has its own template")
        if self.template is not PromptTemplate.AUTO:
            raise SettingError("`--template` is for local models: a server has its own", hint="leave it out")
        from pyllm.lm.backends.endpoint import EndpointBackend, EndpointSettings, key_from_environment

        key = key_from_environment(self.api_key_env or DEFAULT_KEY_VARIABLE, needed=self.api_key_env is not None)
        settings = EndpointSettings(self.concurrency, self.timeout, self.retries, self.seed)
        return EndpointBackend(endpoint, self.model, settings, api_key=key)


def read_budget(text: str | None) -> dict[str, int]:
    """The bounds in `calls=N,tokens=N`, by name.

    Raises:
        SettingError: It is written otherwise.
    """
    bounds: dict[str, int] = {}
    for part in (text or "").split(",") if text is not None else ():
        name, _, number = part.strip().partition("=")
        digits = number.replace("_", "")
        if name not in ("calls", "tokens") or not (digits.isascii() and digits.isdigit()) or name in bounds:
            raise SettingError(f"--budget `{text}` is not understood", hint="as in --budget calls=500,tokens=2000000")
        bounds[name] = int(digits)
    return bounds
