"""Where a router replica writes its decisions, and how much of them is kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from router.frozen import Frozen


class DecisionLogRules(Frozen):
    """Where a router replica writes its decisions, and how much of them is kept."""

    kind: Literal["file"] = Field("file", description="`file`: files of JSON lines on the router's node.")
    folder: str = Field(min_length=1, description="Folder of the files; it is made if it does not exist.")
    max_bytes: int = Field(
        64 * 2**20, ge=4096, description="Bytes of a file after which the next one begins."
    )
    num_files: int = Field(8, ge=1, le=1000, description="Full files that are kept, for each router replica.")
    text: bool = Field(
        False, description="Whether prompts are written too, so that they can be learned from."
    )
