"""Speed, memory and bytes of the measures on weights, against named references in the same run.

Run with `make bench`. Each line is the median over pairs of a measure and its reference, taken in turns; memory is what
a fresh process needs beyond the interpreter with torch loaded. `--quick` leaves out the shapes of a 7B model's layers.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tuningvec.weights import shards
from tuningvec.weights.checkpoint import Checkpoint
from tuningvec.weights.components import matrix_shapes
from tuningvec.weights.delta import Combination, TuningVector, cosine_matrix, inner_products
from tuningvec.weights.subspace import alignment, decompose, energies

REPEATS = 5
CONFIG = dict(  # 0.47B parameters
    architectures=["LlamaForCausalLM"], model_type="llama", tie_word_embeddings=True, vocab_size=50_000,
    hidden_size=1024, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=16, num_key_value_heads=4,
    head_dim=64,
)  # fmt: skip
LAMBDA = (0.7, -0.4)
MERGEKIT = shutil.which(os.environ.get("MERGEKIT", "mergekit-yaml"))  # its program, in an environment of its own
CHUNK = 2**20  # elements, of the references' own buffers


def make(folder: Path, models: int) -> None:
    """Random bfloat16 checkpoints 0, 1, … of one architecture."""
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    blocks = ["self_attn"] * 4 + ["mlp"] * 3
    shapes = {"model.embed_tokens.weight": (CONFIG["vocab_size"], CONFIG["hidden_size"])}
    for layer in range(CONFIG["num_hidden_layers"]):
        for block, name, shape in zip(blocks, names, matrix_shapes(CONFIG).values(), strict=True):
            shapes[f"model.layers.{layer}.{block}.{name}.weight"] = shape
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{norm}.weight"] = (CONFIG["hidden_size"],)
    shapes["model.norm.weight"] = (CONFIG["hidden_size"],)
    tensors = {name: (torch.bfloat16, shape) for name, shape in shapes.items()}
    for seed in range(models):
        torch.manual_seed(seed)
        (folder / str(seed)).mkdir()
        (folder / str(seed) / "config.json").write_text(json.dumps(CONFIG))
        shards.write(folder / str(seed) / "model.safetensors", tensors, lambda _n, _r, out: out.normal_(0, 0.02))


def apply(folder: Path) -> None:
    """θ + 0.7 T1 − 0.4 T2, streamed to disk."""
    checkpoints = [Checkpoint(folder / str(i)) for i in range(3)]
    theta, one, two = (Combination({c: 1}) for c in checkpoints)
    T1, T2 = TuningVector.between(theta, one), TuningVector.between(theta, two)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        (theta + LAMBDA[0] * T1 + LAMBDA[1] * T2).write(Path(scratch) / "out", checkpoints[0])


def apply_by_hand(folder: Path) -> None:
    """The same by preadv into buffers that are used again, float32, sequential write."""
    files = [_header(folder / str(i) / "model.safetensors") for i in range(3)]
    coefficients = (1 - sum(LAMBDA), *LAMBDA)
    raw, values, total = torch.empty(2 * CHUNK, dtype=torch.uint8), torch.empty(CHUNK), torch.empty(CHUNK)
    rounded = torch.empty(CHUNK, dtype=torch.bfloat16)
    with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as out:
        out.write(os.pread(files[0][0], files[0][2], 0))
        for name, (first, last) in sorted(files[0][1].items(), key=lambda item: item[1]):
            for start in range(first, last, 2 * CHUNK):
                size = min(2 * CHUNK, last - start)
                part = total[: size // 2]
                for i, ((descriptor, offsets, begin), c) in enumerate(zip(files, coefficients, strict=True)):
                    os.preadv(descriptor, [raw[:size].numpy()], begin + offsets[name][0] + start - first)
                    value = values[: size // 2].copy_(raw[:size].view(torch.bfloat16))
                    torch.mul(value, c, out=part) if i == 0 else part.add_(value, alpha=c)
                out.write(rounded[: size // 2].copy_(part).view(torch.uint8).numpy())
    for descriptor, _, _ in files:
        os.close(descriptor)


def apply_by_mergekit(folder: Path) -> None:
    """The same by mergekit's program, task arithmetic in float32; its start is part of the time."""
    models = [f"{{model: {folder}/{i}, parameters: {{weight: {w}}}}}" for i, w in zip((1, 2), LAMBDA, strict=True)]
    config = f"merge_method: task_arithmetic\nbase_model: {folder}/0\ndtype: float32\nout_dtype: bfloat16\n"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        recipe = Path(scratch) / "merge.yaml"
        recipe.write_text(config + f"models: [{', '.join(models)}]\n")
        command = [MERGEKIT, recipe, f"{scratch}/out", "--no-copy-tokenizer"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def cosines(folder: Path) -> None:
    """Cosine matrix of four tuning vectors, whole model and by component, in one pass over five checkpoints."""
    checkpoints = [Checkpoint(folder / str(i)) for i in range(5)]
    theta, *tuned = (Combination({c: 1}) for c in checkpoints)
    T = {str(i): TuningVector.between(theta, ft) for i, ft in enumerate(tuned)}
    cosine_matrix(inner_products(T, checkpoints[0]))


def read_and_convert(folder: Path) -> None:
    """Read the five checkpoints' bytes and make them float32, no more."""
    raw, values = torch.empty(2 * CHUNK, dtype=torch.uint8), torch.empty(CHUNK)
    for i in range(5):
        descriptor, _, begin = _header(folder / str(i) / "model.safetensors")
        for start in range(begin, os.fstat(descriptor).st_size, 2 * CHUNK):
            size = os.preadv(descriptor, [raw.numpy()], start)
            values[: size // 2].copy_(raw[:size].view(torch.bfloat16))
        os.close(descriptor)


def _header(file: Path) -> tuple[int, dict[str, list[int]], int]:
    descriptor = os.open(file, os.O_RDONLY)
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    entries = json.loads(os.pread(descriptor, length, 8))
    return descriptor, {n: e["data_offsets"] for n, e in entries.items() if n != "__metadata__"}, 8 + length


WORKS = {w.__name__: w for w in (apply, apply_by_hand, apply_by_mergekit, cosines, read_and_convert)}


def child(work: str, folder: str) -> None:
    """Run one work in this fresh process and print what it took."""
    before, io, start = peak(), _io(), time.perf_counter()
    cpu = sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in _WHO)
    WORKS[work](Path(folder))
    used = sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in _WHO) - cpu
    read, written = (after - then for after, then in zip(_io(), io, strict=True))
    took = dict(wall=time.perf_counter() - start, cpu=used, memory=peak() - before, read=read, written=written)
    print(json.dumps(took))


_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def peak() -> int:
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in _WHO)


def _io() -> tuple[int, int]:
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"]), int(counters["wchar"])


def measured(work: str, folder: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, work, str(folder)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def compare(what: str, against: str, folder: Path) -> None:
    """Print ratios of wall and CPU time, and memory and bytes of both."""
    pairs = [(measured(against, folder), measured(what, folder)) for _ in range(REPEATS + 1)][1:]
    ratios = {u: statistics.median(mine[u] / theirs[u] for theirs, mine in pairs) for u in ("wall", "cpu")}
    ours, theirs = ({u: statistics.median(p[side][u] for p in pairs) for u in pairs[0][0]} for side in (1, 0))
    print(
        f"{what}: wall {ratios['wall']:.2f} ×, CPU {ratios['cpu']:.2f} × {against} "
        f"({ours['wall']:.2f} s against {theirs['wall']:.2f} s); memory +{ours['memory'] / 2**20:.0f} MB against "
        f"+{theirs['memory'] / 2**20:.0f} MB; read {ours['read'] / 1e9:.2f} GB, written {ours['written'] / 1e9:.2f} GB",
        flush=True,
    )


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bench_import() -> None:
    def python(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    ours, theirs = python("import tuningvec.weights.delta"), python("import torch, safetensors.torch")
    ratio = statistics.median(seconds(ours) / seconds(theirs) for _ in range(REPEATS))
    print(f"import tuningvec.weights.delta: {ratio:.2f} × import of torch and safetensors", flush=True)


def bench_subspace(shape: tuple[int, int], vectors: int = 4) -> None:
    """SSA and energies of four vectors against one W: one decomposition, against torch.linalg.svd for each."""
    W = torch.randn(shape) * torch.logspace(0, -1, shape[1])
    Ts = [torch.randn(shape) for _ in range(vectors)]

    def each(T: Tensor) -> tuple[int, float]:
        U, S, _ = torch.linalg.svd(W, full_matrices=False)
        k = int((1 - torch.cumsum(S.double() ** 2, 0) / (S.double() ** 2).sum() > 0.05**2).sum()) + 1
        return k, (torch.sum((U[:, :k].T @ T) ** 2) / torch.sum(T**2)).item()

    start = time.perf_counter()
    k, SSA = each(Ts[0])
    theirs = vectors * (time.perf_counter() - start)
    start = time.perf_counter()
    basis = decompose(W)
    half = time.perf_counter()
    found = [energies(basis, T, [0.05])[0] for T in Ts]
    ours, split = time.perf_counter() - start, half - start
    whole = split + seconds(lambda: [alignment(basis, T, [0.05]) for T in Ts])
    print(
        f"SSA of {vectors} vectors, {shape[0]} × {shape[1]}: {theirs / ours:.1f} times as fast as an SVD each "
        f"({ours:.1f} s against {vectors} × {theirs / vectors:.1f} s; {split / ours:.0%} of it the decomposition); "
        f"with null and both sides {theirs / whole:.1f} times. k {found[0]['k']} and {k}, SSA apart by "
        f"{abs(found[0]['SSA'] - SSA):.0e}",
        flush=True,
    )


def main(quick: bool) -> None:
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, median of {REPEATS} pairs", flush=True)
    bench_import()
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), 5)
        compare("apply", "apply_by_hand", Path(name))
        if MERGEKIT:
            compare("apply", "apply_by_mergekit", Path(name))
        compare("cosines", "read_and_convert", Path(name))
    bench_subspace((2048, 2048))
    for shape in [] if quick else [(4096, 4096), (14336, 4096), (1024, 4096)]:
        bench_subspace(shape)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        child(*sys.argv[1:])
    else:
        main(quick="--quick" in sys.argv)
