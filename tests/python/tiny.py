"""GGUF files of random weights: a llama of two layers, and LoRA adapters for it.

The vocabulary is single bytes. `merged` gives the model with an adapter's weights added to its own,
which must answer as the two files together do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, FEED_FORWARD, HEADS, LAYERS, RANK = 64, 128, 4, 2, 4
ALPHA = 8.0
TOKENS = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
KINDS = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
ADAPTED = ("attn_q", "attn_v", "ffn_down")

Tensors = dict[str, "np.ndarray"]


def weights(seed: int = 0) -> Tensors:
    """The tensors of a model."""
    rng = np.random.default_rng(seed)

    def tensor(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.2, shape).astype(np.float32)

    tensors = {
        "token_embd.weight": tensor(len(TOKENS), WIDTH),
        "output_norm.weight": tensor(WIDTH),
        "output.weight": tensor(len(TOKENS), WIDTH),
    }
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{name}.weight"] = tensor(WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"blk.{layer}.{name}.weight"] = tensor(WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            tensors[f"blk.{layer}.{name}.weight"] = tensor(FEED_FORWARD, WIDTH)
        tensors[f"blk.{layer}.ffn_down.weight"] = tensor(WIDTH, FEED_FORWARD)
    return tensors


def adapter(seed: int) -> Tensors:
    """The tensors of an adapter: for each weight that it changes, a narrow `a` and `b`."""
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for layer in range(LAYERS):
        for name in ADAPTED:
            width = FEED_FORWARD if name == "ffn_down" else WIDTH
            key = f"blk.{layer}.{name}.weight"
            tensors[f"{key}.lora_a"] = rng.normal(0, 0.4, (RANK, width)).astype(np.float32)
            tensors[f"{key}.lora_b"] = rng.normal(0, 0.4, (WIDTH, RANK)).astype(np.float32)
    return tensors


def merged(model: Tensors, lora: Tensors, scale: float = 1.0) -> Tensors:
    """The model with the adapter's product, so much of it, added to each weight that it changes."""
    changed = dict(model)
    for key in {name.rpartition(".")[0] for name in lora}:
        product = lora[f"{key}.lora_b"] @ lora[f"{key}.lora_a"]
        changed[key] = model[key] + scale * (ALPHA / RANK) * product
    return changed


def write_model(path: Path, tensors: Tensors | None = None) -> Path:
    """A model as a file."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_types([*KINDS, *[gguf.TokenType.BYTE] * 256])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    return _write(writer, path, weights() if tensors is None else tensors)


def write_adapter(path: Path, tensors: Tensors) -> Path:
    """An adapter as a file."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    return _write(writer, path, tensors)


def _write(writer: gguf.GGUFWriter, path: Path, tensors: Tensors) -> Path:
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
