"""Llama models of any shape with random weights, fine-tuned ones and adapters, for benchmarks."""

import json
import sys
import zlib
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tuningvec.weights import shards
from tuningvec.weights.checkpoint import ADAPTER, INDEX, Checkpoint, LowRank, write_checkpoint
from tuningvec.weights.components import MATRICES
from tuningvec.weights.delta import Combination, TuningVector, places

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SHAPES = {  # Llama-3-8B, Llama-3.2-1B
    "8b": dict(zip(SIZES, (4096, 14336, 32, 32, 8), strict=True), vocab_size=128_256, tie_word_embeddings=False),
    "1b": dict(zip(SIZES, (2048, 8192, 16, 32, 8), strict=True), vocab_size=128_256, tie_word_embeddings=True),
    "tiny": dict(zip(SIZES, (64, 176, 2, 4, 2), strict=True), vocab_size=512, tie_word_embeddings=True),
}
CHANGED = dict(layers="num_hidden_layers", width="hidden_size", mlp="intermediate_size", vocabulary="vocab_size")
RELATIVE, RANK = 0.01, 16  # ‖T‖ / ‖θ‖ of the full fine-tunes; rank of the others


def config_of(shape: str, **changes: int | None) -> LlamaConfig:
    sizes = SHAPES[shape] | {CHANGED[name]: size for name, size in changes.items() if size}
    return LlamaConfig(**sizes, architectures=["LlamaForCausalLM"], max_position_embeddings=8192)


def described(config: LlamaConfig) -> str:
    """The shape in words, in the order of SIZES."""
    return "hidden {}, MLP {}, layers {}, heads {}/{}".format(*(getattr(config, size) for size in SIZES))


def random_rows(seed: int, name: str, rows: slice, out: Tensor) -> None:
    """Weights of a matrix whose columns fall, so that k is below its rank; the same for the same rows."""
    if out.ndim == 1:
        out.fill_(1)
        return
    out.normal_(0, 0.02, generator=_generator(seed, name, rows))
    if ".layers." in name:
        out.mul_(torch.logspace(0.3, -0.7, out.shape[1]))


def _generator(seed: int, name: str, rows: slice) -> torch.Generator:
    """One of its own for each piece, so that threads do not wait for each other."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name} {rows.start}".encode()))


def write_pretrained(folder: Path, config: LlamaConfig) -> None:
    """A random bfloat16 checkpoint with a shard for each layer and one for what is outside the layers."""
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in LlamaForCausalLM(config).named_parameters()}
    inside = [name.split(".")[2] if ".layers." in name else "rest" for name in shapes]
    files = {name: f"model-{part}.safetensors" for name, part in zip(shapes, inside, strict=True)}
    config.save_pretrained(folder)
    for file in dict.fromkeys(files.values()):
        held = {name: (torch.bfloat16, shape) for name, shape in shapes.items() if files[name] == file}
        shards.write(folder / file, held, partial(random_rows, 0))
    size = sum(2 * torch.Size(shape).numel() for shape in shapes.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": files}))


def write_fine_tuned(folder: Path, pre: Checkpoint, seed: int) -> None:
    """θ + T, each row of T random and RELATIVE as long as that of θ."""

    def fill(name: str, rows: slice, out: Tensor) -> None:
        pre.read(name, rows, out)
        noise = torch.randn(out.shape, generator=_generator(seed, name, rows))
        out.addcmul_(noise, out.square().mean(-1, keepdim=True).sqrt(), value=RELATIVE)

    write_checkpoint(folder, pre, fill)


def write_adapter(folder: Path, pre: Checkpoint, seed: int) -> None:
    """A random LoRA adapter of every matrix."""
    held = {}
    for name, _ in places({"": Combination({pre: 1})}, pre, MATRICES):
        stem, (d_out, d_in) = f"base_model.model.{name.removesuffix('.weight')}", pre.shapes[name]
        held[f"{stem}.lora_A.weight"] = torch.bfloat16, (RANK, d_in)
        held[f"{stem}.lora_B.weight"] = torch.bfloat16, (d_out, RANK)
    folder.mkdir()
    (folder / ADAPTER).write_text(json.dumps(dict(r=RANK, lora_alpha=RANK)))
    shards.write(folder / "adapter_model.safetensors", held, partial(random_rows, seed))


def made(folder: Path, config: LlamaConfig) -> tuple[Checkpoint, dict[str, TuningVector]]:
    """The pretrained checkpoint and four T, of two fine-tuned models and of two adapters; what is there is kept."""
    if not (folder / "pretrained" / INDEX).is_file():
        write_pretrained(folder / "pretrained", config)
    pre = Checkpoint(folder / "pretrained")
    found = LlamaConfig.from_pretrained(pre.folder)
    if any(getattr(found, size) != getattr(config, size) for size in (*SIZES, "vocab_size")):
        sys.exit(f"{folder}: holds models of another shape; choose another folder or remove it")
    theta, vectors = Combination({pre: 1}), {}
    for i in (1, 2):
        full, thin = folder / f"full{i}", folder / f"thin{i}"
        if not full.is_dir():
            write_fine_tuned(full, pre, i)
        if not thin.is_dir():
            write_adapter(thin, pre, i)
        vectors[full.name] = TuningVector.between(theta, Combination({Checkpoint(full): 1}))
        vectors[thin.name] = TuningVector({LowRank(thin): 1})
    return pre, vectors
