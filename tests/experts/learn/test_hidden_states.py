"""The meta's one forward pass: what is learned from, in which places, in which batches, and kept on disk."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experts.checkpoint import Checkpoint
from experts.errors import DataError, ModelLoadError
from experts.learn import States, cache_states, compute_states
from experts.learn.shards import run_here
from experts.learn.targets import ANY_WORD, WORD, find_targets
from experts.prompt import PromptRenderer
from experts.token import head_fingerprint
from tests.tiny.taught_meta import EXPERTS, query
from tests.tiny.tokenizers import byte_level


def require_same(found: States, wanted: States, atol: float = 0.0, rtol: float = 0.0) -> None:
    for name, value in vars(wanted).items():
        other = vars(found)[name]
        if isinstance(value, Tensor):
            torch.testing.assert_close(other, value, atol=atol, rtol=rtol)
        elif name != "meta_name":
            assert other == value, name


def test_states_do_not_depend_on_the_batch(taught_model, renderer, queries, states):
    one_by_one = compute_states(taught_model, renderer, queries, batch_size=1)
    assert one_by_one.query.tolist() == states.query.tolist()
    for name in ("hidden", "log_z", "max_logit", "target_logit"):
        torch.testing.assert_close(getattr(one_by_one, name), getattr(states, name), atol=1e-4, rtol=1e-4)


def test_every_written_word_is_a_target_and_then_the_expert_or_the_end_of_the_turn(renderer):
    tokenizer = renderer.tokenizer
    prompt = renderer.chat(query("q", None).messages)
    written = tokenizer("Hello! ", add_special_tokens=False)["input_ids"]
    last = len(prompt) - 1

    handed = find_targets(query("q", "morse", "Hello! "), renderer, EXPERTS)
    assert handed.ids == prompt + written
    assert handed.positions == list(range(last, len(handed.ids)))
    assert handed.words[:-1] == written
    assert handed.experts == [WORD] * len(written) + [1]

    whole = find_targets(query("q", None, "Hello! "), renderer, EXPERTS)
    assert whole.words == [*written, tokenizer.eos_token_id]
    assert whole.experts == [WORD] * (len(written) + 1)

    bare = find_targets(query("q", "roman"), renderer, EXPERTS)
    assert (bare.positions, bare.experts) == ([last], [2])
    unanswered = find_targets(query("q", None), renderer, EXPERTS)
    assert (unanswered.positions, unanswered.words, unanswered.experts) == ([last], [ANY_WORD], [WORD])


def test_a_token_merged_across_the_start_of_the_answer_is_no_target():
    merging = byte_level(
        "{% for m in messages %}{{ ' t' if m.role == 'assistant' }}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %} t{% endif %}"
    )
    renderer = PromptRenderer(merging)
    prompt, ids = renderer.chat(query("a", None).messages), renderer.chat(query("a", None).messages, "he")
    assert prompt != ids[: len(prompt)]
    shared = next(i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b)
    targets = find_targets(query("a", "roman", "he x"), renderer, EXPERTS)
    assert targets.positions[0] == shared
    assert targets.words[:-1] == targets.ids[shared + 1 :]


def test_queries_that_do_not_fit_the_window_are_listed(taught_model, renderer):
    long = [query("word " * 200, "roman", line=4), query("short", "roman", line=5)]
    with pytest.raises(
        DataError, match=r"1 of 2 rows are broken.*\n.*line 4: \d+ tokens, but the meta takes 128"
    ):
        compute_states(taught_model, renderer, long)


def test_chosen_queries_are_renumbered_in_the_order_given(states, queries):
    chosen = [5, 0, 11]
    picked = states.of_queries(chosen)
    assert picked.num_queries == 3
    for number, index in enumerate(chosen):
        for name in ("hidden", "log_z", "expert"):
            rows = getattr(picked, name)[picked.query == number]
            assert rows.tolist() == getattr(states, name)[states.query == index].tolist()
    assert len(states.of_queries([])) == 0


def test_states_on_disk_are_those_in_memory_and_come_back_without_the_model(
    taught_folder, states, queries, tmp_path
):
    checkpoint = Checkpoint(str(taught_folder))
    reports: list[tuple[int, int, str]] = []
    kept = cache_states(
        checkpoint, queries, tmp_path, shard_size=50, progress=lambda *report: reports.append(report)
    )
    require_same(kept, states, atol=1e-4, rtol=1e-4)
    assert kept.meta_name == "meta"
    counts = [done for done, _, _ in reports]
    assert counts == sorted(counts)
    # After every batch, not only after every shard.
    assert {0, 16, 32, 48, 50, 66, 100, 116, 120} <= set(counts)
    again = cache_states(checkpoint, queries, tmp_path, shard_size=50, run=must_not_run)
    require_same(again, kept)


def must_not_run(checkpoint, batch_size, tasks):
    raise AssertionError("there was nothing to compute")


KILLED_AFTER_TWO = """
import os, signal, sys
from pathlib import Path
from experts.checkpoint import Checkpoint
from experts.learn import cache_states
from experts.learn.shards import run_here
from tests.tiny.taught_meta import query_set

def killed(*work):
    for number, shard in enumerate(run_here(*work)):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield shard

cache_states(Checkpoint(sys.argv[1]), query_set(0, 30), Path(sys.argv[2]), shard_size=30, run=killed)
"""


def test_a_killed_run_continues_where_it_stopped(taught_folder, queries, tmp_path):
    command = [sys.executable, "-c", KILLED_AFTER_TWO, str(taught_folder), str(tmp_path / "killed")]
    repository = Path(__file__).parents[3]
    assert subprocess.run(command, cwd=repository, check=False).returncode == -signal.SIGKILL
    finished = sorted((tmp_path / "killed").glob("shard-*"))
    written = [path.stat().st_mtime_ns for path in finished]
    assert len(finished) == 2
    checkpoint = Checkpoint(str(taught_folder))
    resumed = cache_states(checkpoint, queries, tmp_path / "killed", shard_size=30)
    assert [path.stat().st_mtime_ns for path in finished] == written
    whole = cache_states(checkpoint, queries, tmp_path / "whole", shard_size=30)
    # The killed process may have had another number of threads, and so another order of summing.
    require_same(resumed, whole, atol=1e-5, rtol=1e-5)


def test_a_damaged_shard_is_computed_again(taught_folder, queries, tmp_path):
    checkpoint = Checkpoint(str(taught_folder))
    whole = cache_states(checkpoint, queries, tmp_path, shard_size=50)
    damaged = tmp_path / "shard-00001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (tmp_path / "shard-00002.safetensors").unlink()
    computed: list[int] = []

    def counted(checkpoint, batch_size, tasks):
        for number, shard in run_here(checkpoint, batch_size, tasks):
            computed.append(number)
            yield number, shard

    require_same(cache_states(checkpoint, queries, tmp_path, shard_size=50, run=counted), whole)
    assert computed == [1, 2]


def test_states_of_another_meta_or_of_other_data_are_refused(
    taught_model, taught_folder, renderer, queries, tmp_path
):
    states = tmp_path / "states"
    cache_states(Checkpoint(str(taught_folder)), queries, states)
    with pytest.raises(DataError, match=f"{states}: its states have dataset_digest .*; delete that folder"):
        cache_states(Checkpoint(str(taught_folder)), queries[1:], states)
    taught_model.save_pretrained(tmp_path / "meta")
    renderer.tokenizer.save_pretrained(tmp_path / "meta")
    retrained = compute_other_head(tmp_path / "meta")
    with pytest.raises(DataError, match=f"{states}: its states have meta_fingerprint .*; delete that"):
        cache_states(Checkpoint(str(retrained)), queries, states)
    (states / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest.json cannot be read .*; delete that folder"):
        cache_states(Checkpoint(str(taught_folder)), queries, states)


def test_states_of_a_meta_with_the_same_head_but_other_files_are_refused(taught_folder, queries, tmp_path):
    meta, states = tmp_path / "meta", tmp_path / "states"
    shutil.copytree(taught_folder, meta)
    cache_states(Checkpoint(str(meta)), queries, states)
    model, _ = Checkpoint(str(meta)).load()
    model.model.layers[0].mlp.down_proj.weight.data.mul_(1.5)  # as after merging a LoRA adapter
    model.save_pretrained(meta)
    with pytest.raises(DataError, match=rf"{states}: .* other files of the meta: model.safetensors changed"):
        cache_states(Checkpoint(str(meta)), queries, states)

    shutil.rmtree(meta)
    shutil.copytree(taught_folder, meta)
    template = meta / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + "{# changed #}", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"of the meta: chat_template.jinja changed since; delete that folder"
    ):
        cache_states(Checkpoint(str(meta)), queries, states)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_the_meta_of_the_states_is_that_of_its_files_in_whatever_dtype_it_computes(
    taught_folder, queries, tmp_path, stored, dtype
):
    """Regression: a head that is rounded to float16 and then to bfloat16 may have another fingerprint."""
    model, renderer = Checkpoint(str(taught_folder)).load()
    head = model.lm_head.weight.data
    head[0] = 1 + 2**-8 + 2**-13  # rounded to bfloat16 it is above 1, but by way of float16 it is 1
    assert head_fingerprint(head) != head_fingerprint(head.half())
    meta = tmp_path / "meta"
    model.to(stored).save_pretrained(meta)
    renderer.tokenizer.save_pretrained(meta)
    states = cache_states(Checkpoint(str(meta), dtype=dtype), queries[:6], tmp_path / "states")
    assert states.meta_fingerprint == head_fingerprint(head)


def test_states_are_valid_for_a_copy_of_the_meta_with_other_file_times(taught_folder, queries, tmp_path):
    meta, states = tmp_path / "meta", tmp_path / "states"
    shutil.copytree(taught_folder, meta)
    first = cache_states(Checkpoint(str(taught_folder)), queries, states)
    for path in meta.iterdir():
        os.utime(path)
    require_same(cache_states(Checkpoint(str(meta)), queries, states, run=must_not_run), first)


def compute_other_head(folder: Path) -> Path:
    model, _ = Checkpoint(str(folder)).load()
    model.get_output_embeddings().weight.data.mul_(2)
    model.save_pretrained(folder)
    return folder


def test_a_worker_with_another_meta_is_refused(taught_folder, queries, tmp_path):
    def elsewhere(checkpoint, batch_size, tasks):
        renderer_and_weights = tmp_path / "meta"
        model, renderer = checkpoint.load()
        model.save_pretrained(renderer_and_weights)
        renderer.tokenizer.save_pretrained(renderer_and_weights)
        return run_here(Checkpoint(str(compute_other_head(renderer_and_weights))), batch_size, tasks)

    with pytest.raises(DataError, match="put the same checkpoint of 'meta' on every node"):
        cache_states(Checkpoint(str(taught_folder)), queries, tmp_path / "states", run=elsewhere)


def test_states_that_are_not_numbers_are_refused_with_their_queries_and_experts(
    taught_folder, queries, tmp_path
):
    model, renderer = Checkpoint(str(taught_folder)).load()
    model.model.embed_tokens.weight.data[renderer.tokenizer("iron")["input_ids"][0]] = float("nan")
    with pytest.raises(DataError, match=r"line 1 \(chemistry\): the meta's states are not finite"):
        compute_states(model, renderer, [query("iron", "chemistry")])
    model.save_pretrained(tmp_path / "meta")
    renderer.tokenizer.save_pretrained(tmp_path / "meta")
    with pytest.raises(DataError, match="the meta's states are not finite; try dtype float32"):
        cache_states(Checkpoint(str(tmp_path / "meta")), queries, tmp_path / "states")


def test_a_meta_that_cannot_be_loaded_is_named(queries, tmp_path):
    with pytest.raises(ModelLoadError, match=f"{tmp_path}: cannot be loaded: .*; correct"):
        cache_states(Checkpoint(str(tmp_path)), queries, tmp_path / "states")
