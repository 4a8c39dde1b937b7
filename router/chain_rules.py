"""The rules of a chain: several experts that work on one answer, one after another."""

from __future__ import annotations

from functools import cached_property

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field, field_validator

from router.errors import ModelFailed
from router.frozen import Frozen

# The name of the row in the meta's head that says "good enough". No expert may have it.
CHAIN_STOP = "chain-stop"
_JINJA = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_VARIABLES = {"question", "answer"}
_DEFAULT_PROMPT = """\
{{ question }}

Another assistant has answered:

{{ answer }}

Check this answer, and write the best answer to the question."""


class ChainRules(Frozen):
    """When the meta has another expert write an answer anew, and what that expert is asked."""

    prompt: str = Field(
        _DEFAULT_PROMPT,
        description="Jinja template of what the next expert is asked, in place of the last message of the "
        "user. Its variables are `question`, the text of that message, and `answer`, the answer so far.",
    )
    max_hops: int = Field(
        3,
        ge=2,
        description="Maximum number of experts that work on an answer, each once. Up to `max_handoffs`.",
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Maximum number of tokens of all answers of a chain together. A further answer begins "
        "only if there is room for one as long as the last. By default only the request limits them.",
    )
    reveal: bool = Field(
        False,
        description="Whether the client gets the earlier answers of a chain as reasoning, unless it asks for "
        "none. A trace always has them.",
    )

    @field_validator("prompt")
    @classmethod
    def _uses_its_variables(cls, prompt: str) -> str:
        try:
            used = meta.find_undeclared_variables(_JINJA.parse(prompt))
            if used == _VARIABLES:
                _rendered(_JINJA.from_string(prompt), "a question", "an answer")
        except (TemplateError, ModelFailed) as error:
            raise ValueError(f"not a valid template: {error}; correct it") from error
        if unknown := sorted(used - _VARIABLES):
            raise ValueError(f"unknown variable '{unknown[0]}'; use question and answer")
        if missing := sorted(_VARIABLES - used):
            raise ValueError(f"does not use {missing[0]}; add {{{{ {missing[0]} }}}}")
        return prompt

    def render(self, question: str, answer: str) -> str:
        """What the next expert is asked. Raises ModelFailed: the template fails for these texts."""
        return _rendered(self.template, question, answer)

    @cached_property
    def template(self) -> Template:
        return _JINJA.from_string(self.prompt)


def _rendered(template: Template, question: str, answer: str) -> str:
    try:
        return template.render(question=question, answer=answer)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise ModelFailed(f"routing.chain.prompt fails: {error}") from error
