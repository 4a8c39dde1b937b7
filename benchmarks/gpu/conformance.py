"""The tests that compare each engine with plain forward passes, on this machine's device."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

TESTS = "tests/experts/engine/test_engine_conformance.py"
REPOSITORY = Path(__file__).resolve().parent.parent.parent
NEEDED = ("pytest", "pytest_asyncio", "pytest_timeout")


def conformance() -> dict[str, Any]:
    """How many tests passed and failed, and the names of those that failed; or why they were skipped."""
    missing = [package for package in NEEDED if not find_spec(package)]
    if missing or not (REPOSITORY / TESTS).exists():
        return {"skipped": f"{', '.join(missing) or TESTS} is not installed here"}
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", TESTS, "-q", "-p", "no:cacheprovider"]
        subprocess.run([*command, f"--junitxml={report}"], cwd=REPOSITORY, check=False, stdout=sys.stderr)
        return _counts(report)


def _counts(report: Path) -> dict[str, Any]:
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case.get("name") for case in cases if {child.tag for child in case} & {"failure", "error"}]
    num_skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "num_passed": len(cases) - len(failed) - num_skipped,
        "num_skipped": num_skipped,
        "failed": failed,
    }
