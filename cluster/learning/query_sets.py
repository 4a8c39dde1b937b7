"""Reads the query sets of all learning commands: a cluster must be able to use every row. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from cluster.errors import ConfigError
from experts.checkpoint import Checkpoint
from experts.errors import DataError
from experts.learn import Query, read_queries
from experts.learn.queries import QUERY_SET, label_problem
from experts.learn.row_formats import parse_judged_answer
from experts.learn.targets import misfit
from experts.prompt import PromptRenderer
from router.chain_rules import CHAIN_STOP, ChainRules
from router.errors import ModelFailed

Warn = Callable[[str], None]


def usable_queries(
    data: Path,
    meta: Checkpoint,
    names: Collection[str],
    *,
    all_labelled: bool,
    skip_broken: bool,
    warn: Warn,
) -> list[Query]:
    """The queries of `data`. Each must fit the meta, and name one of the experts `names` or none.

    With `all_labelled`, each must have a label; otherwise, a label or a reference answer. With `skip_broken`,
    rows that are broken in any of these ways are left out. `warn`: see `read_queries`.

    Raises:
        ConfigError: the data is unusable.
        ModelLoadError, TemplateError: the meta's tokenizer or chat template is.
    """

    def problem(query: Query) -> str | None:
        if query.labelled or all_labelled:
            return label_problem(query, names) or misfit(query, *_prompts(meta))
        if not query.reference:
            return 'no reference answer; add one, or an "expert"'
        return misfit(query, *_prompts(meta))

    with data_errors_named(data):
        return read_queries(data, check=problem, skip_broken=skip_broken, warn=warn)


def judged_answers(
    data: Path, meta: Checkpoint, rules: ChainRules, *, skip_broken: bool, warn: Warn
) -> list[Query]:
    """The decisions about the answers of `data`, as `parse_judged_answer` has them: of both kinds.

    Raises as `usable_queries`.
    """

    def prompt(question: str, answer: str) -> str:
        try:
            return rules.render(question, answer)
        except ModelFailed as error:
            raise ValueError(str(error)) from error

    parse = partial(parse_judged_answer, prompt=prompt, good_enough=CHAIN_STOP)
    with data_errors_named(data):
        queries = read_queries(
            data,
            parse=parse,
            check=lambda query: misfit(query, *_prompts(meta)),
            skip_broken=skip_broken,
            warn=warn,
        )
        if len({query.expert for query in queries}) < 2:
            other = "true" if queries[0].expert else "false"
            raise DataError(f'no answer has "better": {other}; give answers of both kinds')
    return queries


@contextmanager
def data_errors_named(data: Path) -> Iterator[None]:
    """Turns a DataError into a ConfigError whose lines begin with the name of the file."""
    try:
        yield
    except DataError as error:
        raise in_data(data, error) from error


def in_data(data: Path, error: DataError) -> ConfigError:
    """The same error, each of its lines beginning with the name of the file."""
    lines = [line.removeprefix(f"{data}: ").removeprefix(f"{QUERY_SET}: ") for line in str(error).split("\n")]
    return ConfigError([f"{data}: {line}" for line in lines])


@cache
def _prompts(meta: Checkpoint) -> tuple[PromptRenderer, int | None]:
    """Loaded once, when the first query is checked: a file that cannot be read is reported before."""
    return meta.load_renderer(), meta.max_tokens()
