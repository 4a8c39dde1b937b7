"""The lock between processes: held by one at a time, and free again when its holder ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.process_lock import LockHeld, exclusive

HOLDER = """
import sys
from pathlib import Path
from cluster.process_lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_names_its_holder_and_is_released_when_that_is_killed(tmp_path: Path):
    path = tmp_path / "state" / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        for _ in range(2):  # a refused attempt leaves the holder's text as it is
            with pytest.raises(LockHeld, match=rf"process {holder.pid}, since \d"), exclusive(path):
                pass
        holder.kill()
    with exclusive(path):
        assert path.read_text().startswith(f"process {os.getpid()}, since ")


def test_a_lock_is_released_when_its_block_fails(tmp_path: Path):
    with pytest.raises(ValueError, match="inside"), exclusive(tmp_path / "lock"):
        raise ValueError("inside")
    with exclusive(tmp_path / "lock"):
        pass


def test_a_lock_file_that_cannot_be_made_is_an_os_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), exclusive(tmp_path / "file" / "lock"):
        pass
