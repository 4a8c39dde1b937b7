"""Valid names of experts, in cluster.yaml, in token files and in training data."""

from __future__ import annotations

import re

EXPERT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
