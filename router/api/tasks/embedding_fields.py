"""Every field of a request for embeddings that OpenAI or vLLM documents, and what becomes of it here."""

from __future__ import annotations

from router.api.fields.table import Endpoint, HonouredField, NoEffectField, RefusedField

EMBEDDINGS = (Endpoint.EMBEDDINGS,)

HONOURED = (
    HonouredField("model", "OV", "a model id", "An embedding model of this cluster. Required", EMBEDDINGS),
    HonouredField(
        "input",
        "OV",
        "text, token ids, or a list of up to 2048 of either",
        "Each gets a vector. Token ids are taken as they are; text gets what the tokenizer puts around it",
        EMBEDDINGS,
    ),
    HonouredField(
        "encoding_format",
        "OV",
        "`float`, `base64`",
        "`base64`: the vector as 32-bit floats, little-endian, which is smaller and faster. Default `float`",
        EMBEDDINGS,
    ),
    HonouredField(
        "dimensions",
        "OV",
        "integer from 1",
        "Cuts the vectors. Only if cluster.yaml says that the model may be cut",
        EMBEDDINGS,
    ),
)

_LONG = "an input beyond the window is refused, never cut; cut it yourself"
_CONFIG = "cluster.yaml decides it for every request"

REFUSED = (
    RefusedField("messages", "V", (None,), "send input", EMBEDDINGS),
    RefusedField("truncate_prompt_tokens", "V", (None,), _LONG, EMBEDDINGS),
    RefusedField("truncation_side", "V", (None,), _LONG, EMBEDDINGS),
    RefusedField("add_special_tokens", "V", (None, True), "send token ids to leave them out", EMBEDDINGS),
    RefusedField("normalize", "V", (None,), _CONFIG, EMBEDDINGS),
    RefusedField("use_activation", "V", (None,), _CONFIG, EMBEDDINGS),
    RefusedField("embed_dtype", "V", (None, "float32"), "numbers are 32-bit floats", EMBEDDINGS),
    RefusedField("endianness", "V", (None, "native", "little"), "numbers are little-endian", EMBEDDINGS),
)

NO_EFFECT = (
    NoEffectField("user", "OV", "A label of the client's, which is not stored"),
    NoEffectField("priority", "V", "Inputs of all requests are embedded by turns"),
)
