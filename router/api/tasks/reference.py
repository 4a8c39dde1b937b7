"""The reference of the fields of the requests for tasks, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from router.api.fields.reference import accepted_values, field_table
from router.api.fields.table import Endpoint
from router.api.tasks import embedding_fields
from router.api.tasks.fields import HONOURED, NO_EFFECT, TOKENS


def tasks_reference() -> str:
    """Markdown: a table for each endpoint or pair of endpoints."""
    return "\n".join([*_tables("/tokenize and /detokenize", TOKENS), *_embedding_tables()])


def _tables(title: str, endpoints: tuple[Endpoint, ...]) -> Iterable[str]:
    honoured = [
        (field.name, _scope(field.endpoints, endpoints), field.values, f"{field.meaning}.", field.servers)
        for field in HONOURED
        if set(field.endpoints) <= set(endpoints)
    ]
    no_effect = [(field.name, f"{field.reason}.", field.servers) for field in NO_EFFECT]
    yield from field_table(title, ("field", "only for", "values", "meaning", "documented by"), honoured)
    yield from field_table(f"{title}: without effect", ("field", "why", "documented by"), no_effect)


def _embedding_tables() -> Iterable[str]:
    title = "/v1/embeddings"
    honoured = [(f.name, f.values, f"{f.meaning}.", f.servers) for f in embedding_fields.HONOURED]
    refused = [(f.name, accepted_values(f.accepted), f.remedy, f.servers) for f in embedding_fields.REFUSED]
    no_effect = [(f.name, f"{f.reason}.", f.servers) for f in embedding_fields.NO_EFFECT]
    yield from field_table(title, ("field", "values", "meaning", "documented by"), honoured)
    yield from field_table(
        f"{title}: refused", ("field", "accepted values", "remedy", "documented by"), refused
    )
    yield from field_table(f"{title}: without effect", ("field", "why", "documented by"), no_effect)


def _scope(endpoints: tuple[Endpoint, ...], all_endpoints: tuple[Endpoint, ...]) -> str:
    return "" if endpoints == all_endpoints else ", ".join(f"`{endpoint}`" for endpoint in endpoints)
