"""What `etr up` prints at its end."""

import io

import pytest
from rich.console import Console

from cluster.cli.print_progress import ready


@pytest.mark.parametrize("has_page", [True, False])
def test_the_page_is_named_if_there_is_one(has_page):
    written = io.StringIO()
    ready(Console(file=written), "http://127.0.0.1:8000", "generalist", has_page=has_page)
    assert "http://127.0.0.1:8000/v1" in written.getvalue()
    assert ("in a browser: http://127.0.0.1:8000/\n" in written.getvalue()) is has_page
