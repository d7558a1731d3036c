"""Speed of the measures on weights, as ratios against named references in the same run.

Run with `make bench`. Every figure is the median over repeats of a measure's time divided by that of its reference just
before.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tuningvec.checkpoint import Checkpoint
from tuningvec.delta import Combination, TuningVector, inner_products
from tuningvec.subspace import alignment, decompose

REPEATS = 5


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(what: str, against: str, work: Callable[[], object], reference: Callable[[], object]) -> None:
    """Print the ratio; reference and work take turns, after one turn of each that is not counted."""
    reference(), work()
    pairs = [(seconds(reference), seconds(work)) for _ in range(REPEATS)]
    ratio = statistics.median(mine / theirs for theirs, mine in pairs)
    times = [statistics.median(column) for column in zip(*pairs, strict=True)]
    print(f"{what}: {ratio:.2f} × {against} ({times[1]:.2f} s against {times[0]:.2f} s)", flush=True)


def python(code: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "TQDM_DISABLE": "1"})


def bench_import() -> None:
    report(
        "import tuningvec.delta",
        "import of torch, safetensors, pandas and jaxtyping",
        python("import tuningvec.delta"),
        python("import torch, safetensors.torch, pandas, jaxtyping"),
    )


def bench_subspace() -> None:
    """Four tuning vectors against one tall matrix of a 1B model's MLP, all of k, SSA and energies."""
    W, *vectors = (torch.randn(4096, 1024) for _ in range(5))
    singular_values = torch.logspace(0, -3, 1024)
    W = W * singular_values

    def shared() -> None:
        basis = decompose(W)
        for T in vectors:
            alignment(basis, T, 0.05)

    def each() -> None:
        for T in vectors:
            U, S, _ = torch.linalg.svd(W, full_matrices=False)
            k = int((1 - torch.cumsum(S**2, 0) / (S**2).sum() > 0.05**2).sum()) + 1
            torch.sum((U[:, :k].T @ T) ** 2)

    report("SSA of four vectors", "torch.linalg.svd for each", shared, each)


def bench_passes(folder: Path) -> None:
    """Inner products of three tuning vectors of a 60M-parameter bf16 model in one pass; writing θ + 0.7 T1 − 0.4 T2."""
    config = LlamaConfig(
        vocab_size=16_000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=6,
        num_attention_heads=12,
        num_key_value_heads=4,
    )
    for seed in range(4):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).bfloat16().save_pretrained(folder / str(seed))
    checkpoints = [Checkpoint(folder / str(seed)) for seed in range(4)]
    theta, *tuned = (Combination({c: 1}) for c in checkpoints)
    T = {str(i): TuningVector.between(theta, ft) for i, ft in enumerate(tuned)}

    def read() -> None:
        for checkpoint in checkpoints:
            for name in checkpoint.shapes:
                checkpoint.read(name)

    report("inner products of three vectors", "reading the same bytes", lambda: inner_products(T, checkpoints[0]), read)

    def write() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            (theta + 0.7 * T["0"] - 0.4 * T["1"]).write(Path(scratch) / "out", checkpoints[0])

    def whole() -> None:
        a, b, c = (load_file(folder / str(seed) / "model.safetensors") for seed in range(3))
        made = {n: (a[n].float() + 0.7 * (b[n].float() - a[n]) - 0.4 * (c[n].float() - a[n])).bfloat16() for n in a}
        save_file(made, folder / "reference.safetensors")

    report("writing θ + 0.7 T1 − 0.4 T2", "the same with every model held in memory", write, whole)


def main() -> None:
    os.environ["TQDM_DISABLE"] = "1"
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, median of {REPEATS} pairs", flush=True)
    bench_import()
    bench_subspace()
    with tempfile.TemporaryDirectory() as folder:
        bench_passes(Path(folder))


if __name__ == "__main__":
    main()
