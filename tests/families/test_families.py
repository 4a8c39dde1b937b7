"""Every family of docs/models.md does on an engine what that page says."""

import pytest

from tests.families import page
from tests.families.examine import examine
from tests.families.registry import FAMILIES
from tests.support.engine_world import needs_vllm

BY_NAME = {family.name: family for family in FAMILIES}
# An engine of vLLM takes long to start.
ON_VLLM = ("Llama 2", "Gemma 2", "gpt-oss")

pytestmark = [
    pytest.mark.models,
    pytest.mark.filterwarnings("default"),  # vLLM's own code warns
]


@pytest.mark.parametrize("name", BY_NAME)
async def test_a_family_does_on_the_default_engine_what_the_page_says(name, tmp_path):
    outcome = await examine(BY_NAME[name], "transformers", tmp_path / "model")
    assert outcome == page.read()[name, "transformers"]


@needs_vllm
@pytest.mark.parametrize("name", ON_VLLM)
async def test_a_family_does_on_vllm_what_the_page_says(name, tmp_path):
    outcome = await examine(BY_NAME[name], "vllm", tmp_path / "model")
    assert outcome == page.read()[name, "vllm"]


def test_the_page_is_what_the_command_writes():
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == page.render(page.read().values()), "docs/models.md was edited; run: make models"
