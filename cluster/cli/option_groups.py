"""Options that belong together: a command takes them as one value."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def grouped(**groups: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator for a command with a parameter for each of `groups`, by name.

    The command gets all parameters of the group's function in place of it, and is called with its result.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            values = {name: _called(group, given) for name, group in groups.items()}
            command(**given, **values)

        params = [
            own
            for param in _parameters(command)
            for own in (_parameters(groups[param.name]) if param.name in groups else [param])
        ]
        run.__signature__ = inspect.Signature(params)  # type: ignore[attr-defined]
        run.__annotations__ = {param.name: param.annotation for param in params}
        return run

    return decorate


def _called(group: Callable[..., Any], given: dict[str, Any]) -> Any:
    """What the group's function makes of its arguments, which are taken from `given`."""
    return group(**{name: given.pop(name) for name in inspect.signature(group).parameters})


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """By keyword, so that they may have defaults in any order. With annotations that are types, not text."""
    hints = get_type_hints(function, include_extras=True)
    return [
        param.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, param in inspect.signature(function).parameters.items()
    ]
