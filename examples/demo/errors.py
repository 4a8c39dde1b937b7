"""Errors of the demo.

DemoError
├── NotADemoWorld      the folder to build in has other files
└── TokenizerChanged   a saved model loads with another tokenizer than it was trained with
"""

from __future__ import annotations


class DemoError(Exception):
    """Base of everything the demo raises on purpose."""


class NotADemoWorld(DemoError):
    """The folder is not empty and was not written by a build."""


class TokenizerChanged(DemoError):
    """The saved model would be served with another tokenizer than it was trained with."""
