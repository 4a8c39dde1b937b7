"""The tokenizer of each family: which added tokens it has, where their ids lie, and what ends a turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.families.backends import TokenizerFiles, byte_fallback, byte_level

Save = Callable[[Path, str], None]  # writes a tokenizer with this chat template into the folder

DIGITS = r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|[^\r\n\p{L}\p{N}]?\p{L}+|\s*[\r\n]+|\s+(?!\S)|\s+"


def llama2(folder: Path, template: str) -> None:
    """Also Mistral 7B's first versions; its control words such as [INST] are ordinary text."""
    files = TokenizerFiles(
        "LlamaTokenizer",
        special=("<unk>", "<s>", "</s>"),
        eos="</s>",
        bos="<s>",
        settings={"add_bos_token": True, "add_eos_token": False, "legacy": True, "unk_token": "<unk>"},
    )
    files.save(folder, byte_fallback(files.special, "<s>", prefix=True), template)


def mistral_v3(folder: Path, template: str) -> None:
    """Mistral 7B v0.3: the control words became tokens, 768 of them, before the bytes."""
    words = ["[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
    words += ["[TOOL_RESULTS]", "[/TOOL_RESULTS]", *(f"[control_{i}]" for i in range(8, 769))]
    files = TokenizerFiles(
        "LlamaTokenizer",
        special=("<unk>", "<s>", "</s>", *words),
        eos="</s>",
        bos="<s>",
        settings={"add_bos_token": True, "add_eos_token": False, "legacy": False, "unk_token": "<unk>"},
    )
    files.save(folder, byte_fallback(files.special, "<s>", prefix=True), template)


def tekken(folder: Path, template: str) -> None:
    """Mistral Nemo and Small: byte-level, with a thousand control tokens before the vocabulary."""
    words = ["[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"]
    words += ["[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]"]
    words += ["[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"]
    special = ["<unk>", "<s>", "</s>", *words]
    special += [f"<SPECIAL_{i}>" for i in range(len(special), 1000)]
    files = TokenizerFiles(
        "PreTrainedTokenizerFast", special, eos="</s>", bos="<s>", settings={"unk_token": "<unk>"}
    )
    files.save(folder, byte_level(special, bos="<s>"), template)


def llama3(folder: Path, template: str) -> None:
    words = ["<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>"]
    words += ["<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]
    special = [*words, *(f"<|reserved_special_token_{i}|>" for i in range(256 - len(words)))]
    files = TokenizerFiles(
        "PreTrainedTokenizerFast", special, eos="<|eot_id|>", bos="<|begin_of_text|>",
        pad="<|finetune_right_pad_id|>",
    )  # fmt: skip
    files.save(folder, byte_level(bos="<|begin_of_text|>"), template)


def llama4(folder: Path, template: str) -> None:
    words = ["<|begin_of_text|>", "<|end_of_text|>", "<|fim_prefix|>", "<|header_start|>", "<|header_end|>"]
    words += ["<|eom|>", "<|eot|>", "<|step|>", "<|image_start|>", "<|image_end|>", "<|patch|>"]
    special = [*words, *(f"<|text_post_train_reserved_special_token_{i}|>" for i in range(1124))]
    files = TokenizerFiles("PreTrainedTokenizerFast", special, eos="<|eot|>", bos="<|begin_of_text|>")
    files.save(folder, byte_level(bos="<|begin_of_text|>"), template)


def qwen2(folder: Path, template: str) -> None:
    _qwen(folder, template, ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_suffix|>"))


def qwen3(folder: Path, template: str) -> None:
    """As Qwen 2.5's, and the think tags are tokens, though no special ones."""
    ordinary = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_suffix|>")
    _qwen(folder, template, (*ordinary, "<tool_response>", "</tool_response>", "<think>", "</think>"))


def _qwen(folder: Path, template: str, ordinary: tuple[str, ...]) -> None:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"]
    special += ["<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"]
    files = TokenizerFiles(
        "Qwen2Tokenizer", special, eos="<|im_end|>", pad="<|endoftext|>", ordinary=ordinary,
        settings={"add_bos_token": False, "add_prefix_space": False, "unk_token": None},
    )  # fmt: skip
    files.save(folder, byte_level(nfc=True), template)


def gemma2(folder: Path, template: str) -> None:
    _gemma(folder, template, num_unused=99)


def gemma3(folder: Path, template: str) -> None:
    """6,242 unused tokens, each of which a message could spell."""
    _gemma(folder, template, num_unused=6242)


def _gemma(folder: Path, template: str, num_unused: int) -> None:
    unused = [f"<unused{i}>" for i in range(num_unused)]
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *unused, "<start_of_turn>", "<end_of_turn>"]
    blanks = [*("\n" * count for count in range(1, 32)), *("▁" * count for count in range(2, 32))]
    tags = ["<table>", "<tr>", "</tr>", "<h1>", "</h1>", "<code>", "</code>", "<img>"]
    files = TokenizerFiles(
        "GemmaTokenizer",
        special=(*first[:5], "<start_of_turn>", "<end_of_turn>"),
        eos="<eos>",
        bos="<bos>",
        pad="<pad>",
        ordinary=(*unused, *blanks, *tags),
        settings={"add_bos_token": True, "add_eos_token": False, "unk_token": "<unk>"},
    )
    files.save(folder, byte_fallback((*first, *tags), "<bos>", prefix=False, blanks=blanks), template)


def phi3(folder: Path, template: str) -> None:
    """Llama 2's; its role tokens swallow the line break behind them."""
    roles = ("<|assistant|>", "<|end|>", "<|system|>", "<|user|>")
    placeholders = [f"<|placeholder{i}|>" for i in range(1, 7)]
    special = ("<unk>", "<s>", "</s>", "<|endoftext|>", *roles, *placeholders)
    files = TokenizerFiles(
        "LlamaTokenizer", special, eos="<|endoftext|>", bos="<s>", pad="<|endoftext|>", strip=roles,
        settings={"add_bos_token": True, "add_eos_token": False, "legacy": False, "unk_token": "<unk>"},
    )  # fmt: skip
    files.save(folder, byte_fallback(special[:3], "<s>", prefix=True), template)


def phi4(folder: Path, template: str) -> None:
    dummies = [f"<|dummy_{i}|>" for i in range(80)]
    special = ["<|endoftext|>", "<|fim_prefix|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>", *dummies]
    files = TokenizerFiles(
        "GPT2Tokenizer", special, eos="<|im_end|>", bos="<|endoftext|>", pad="<|dummy_79|>",
        strip=("<|im_start|>", "<|im_end|>", "<|im_sep|>"),
    )  # fmt: skip
    files.save(folder, byte_level(), template)


def phi4_mini(folder: Path, template: str) -> None:
    special = ["<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>", "<|tool|>", "<|/tool|>"]
    special += ["<|tool_call|>", "<|/tool_call|>", "<|tool_response|>", "<|endofprompt|>"]
    files = TokenizerFiles(
        "GPT2Tokenizer", special, eos="<|endoftext|>", bos="<|endoftext|>", pad="<|endoftext|>"
    )
    files.save(folder, byte_level(), template)


def deepseek(folder: Path, template: str) -> None:
    """Byte-level, although its files name Llama's class."""
    special = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
    ordinary = ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜EOT｜>", "<｜fim▁hole｜>"]
    files = TokenizerFiles(
        "LlamaTokenizerFast", special, eos=special[1], bos=special[0], pad=special[1], ordinary=ordinary,
        settings={"add_bos_token": True, "add_eos_token": False, "legacy": True, "unk_token": None},
    )  # fmt: skip
    files.save(folder, byte_level(bos=special[0]), template)


def harmony(folder: Path, template: str) -> None:
    special = ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>"]
    special += ["<|end|>", "<|message|>", "<|call|>", *(f"<|reserved_{i}|>" for i in range(200013, 201088))]
    files = TokenizerFiles(
        "PreTrainedTokenizerFast", special, eos="<|return|>", bos="<|startoftext|>", pad="<|endoftext|>"
    )
    files.save(folder, byte_level(), template)


def granite(folder: Path, template: str) -> None:
    special = ["<|end_of_text|>", "<fim_prefix>", "<fim_suffix>", "<|start_of_role|>", "<|end_of_role|>"]
    special += ["<|tool_call|>", "<reponame>", "<file_sep>"]
    files = TokenizerFiles(
        "GPT2Tokenizer", special, eos=special[0], bos=special[0], pad=special[0],
        settings={"add_bos_token": False, "add_prefix_space": False},
    )  # fmt: skip
    files.save(folder, byte_level(), template)


def olmo2(folder: Path, template: str) -> None:
    """Its role marks are ordinary text, no tokens."""
    special = ["<|endoftext|>", "<|pad|>", "<|endofprompt|>", "<|fim_prefix|>"]
    files = TokenizerFiles("GPT2Tokenizer", special, eos=special[0], bos=special[0], pad=special[1])
    files.save(folder, byte_level(), template)


def smollm2(folder: Path, template: str) -> None:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>"]
    files = TokenizerFiles("GPT2Tokenizer", special, eos="<|im_end|>", bos="<|im_start|>", pad="<|im_end|>")
    files.save(folder, byte_level(pattern=DIGITS), template)


def smollm3(folder: Path, template: str) -> None:
    """Llama 3's, with the think tags as tokens."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>", "<|python_tag|>"]
    special += [f"<|reserved_special_token_{i}|>" for i in range(240)]
    ordinary = ["<think>", "</think>", "<tool_response>", "</tool_response>", "<code>", "</code>"]
    files = TokenizerFiles(
        "PreTrainedTokenizerFast", special, eos="<|im_end|>", pad="<|im_end|>", ordinary=ordinary
    )
    files.save(folder, byte_level(), template)


def command_r(folder: Path, template: str) -> None:
    special = ["<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>", "<EOS_TOKEN>"]
    special += ["<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"]
    special += ["<|SYSTEM_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_ACTION|>"]
    files = TokenizerFiles(
        "CohereTokenizerFast", special, eos="<|END_OF_TURN_TOKEN|>", bos="<BOS_TOKEN>", pad="<PAD>",
        settings={"add_bos_token": True, "add_eos_token": False, "legacy": True, "unk_token": None},
    )  # fmt: skip
    files.save(folder, byte_level(bos="<BOS_TOKEN>", nfc=True, pattern=DIGITS), template)


def glm4(folder: Path, template: str) -> None:
    special = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>"]
    special += ["<|assistant|>", "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>"]
    files = TokenizerFiles("PreTrainedTokenizerFast", special, eos="<|endoftext|>", pad="<|endoftext|>")
    files.save(folder, byte_level(), template)


def falcon3(folder: Path, template: str) -> None:
    special = [">>TITLE<<", ">>ABSTRACT<<", "<|startoftext|>", "<|endoftext|>", "<|assistant|>", "<|user|>"]
    special += ["<|system|>", "<|pad|>", *(f">>UNUSED_{i}<<" for i in range(200))]
    files = TokenizerFiles("PreTrainedTokenizerFast", special, eos="<|endoftext|>", pad="<|pad|>")
    files.save(folder, byte_level(pattern=DIGITS), template)
