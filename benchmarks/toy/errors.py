"""Errors of the toy world.

ToyError
├── NotAToyWorld      the folder to build in has other files
└── TokenizerChanged   a saved model loads with another tokenizer than it was trained with
"""

from __future__ import annotations


class ToyError(Exception):
    """Base of everything the toy world raises on purpose."""


class NotAToyWorld(ToyError):
    """The folder is not empty and was not written by a build."""


class TokenizerChanged(ToyError):
    """The saved model would be served with another tokenizer than it was trained with."""
