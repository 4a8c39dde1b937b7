"""Every field of the requests for tasks that OpenAI or vLLM documents, and what becomes of it here."""

from __future__ import annotations

from router.api.fields.table import Endpoint, HonouredField, NoEffectField, RefusedField

TOKENS = (Endpoint.TOKENIZE, Endpoint.DETOKENIZE)
_TOKENIZE = (Endpoint.TOKENIZE,)
_AS_CHAT = "As for chat completions"

HONOURED = (
    HonouredField("model", "V", "a model id", "Whose tokens. By default the meta's", TOKENS),
    HonouredField("prompt", "V", "text", "A raw prompt, or", _TOKENIZE),
    HonouredField("messages", "V", "list", "A conversation in the model's chat template", _TOKENIZE),
    HonouredField(
        "add_special_tokens",
        "V",
        "boolean",
        "Whether a raw prompt gets what the tokenizer puts around a text. Default true. With messages only "
        "false is accepted",
        _TOKENIZE,
    ),
    HonouredField(
        "return_token_strs", "V", "boolean", "Also say how the vocabulary spells each token", _TOKENIZE
    ),
    HonouredField("add_generation_prompt", "V", "boolean", _AS_CHAT, _TOKENIZE),
    HonouredField("continue_final_message", "V", "boolean", _AS_CHAT, _TOKENIZE),
    HonouredField("chat_template", "V", "a Jinja template", _AS_CHAT, _TOKENIZE),
    HonouredField("chat_template_kwargs", "V", "object", _AS_CHAT, _TOKENIZE),
    HonouredField("tools", "V", "up to 128 functions", _AS_CHAT, _TOKENIZE),
    HonouredField("tokens", "V", "token ids", "What to turn into text", (Endpoint.DETOKENIZE,)),
)

REFUSED: tuple[RefusedField, ...] = ()

_MEDIA = "Models here read text only, so it applies to nothing"

NO_EFFECT = (
    NoEffectField("media_io_kwargs", "V", _MEDIA),
    NoEffectField("mm_processor_kwargs", "V", _MEDIA),
)
