"""Every measure on a model of a large model's shape: seconds, shares of what the machine can do, memory.

`make gpu`, or `python tests/benchmarks/bench_gpu.py --shape 1b --layers 4 --only capture SSA`. Weights, fine-tuned
models, adapters and prompts are random: neither a hub nor a tokenizer is asked. Four checkpoints must find room in the
folder (8b: 64 GB; with --layers 4, 15 GB). `nulls` reads each full T once for every layer, which takes hours for all
layers of 8b. --record adds the rows to data/gpu.csv, and takes a GPU.
"""

import argparse
import csv
import datetime
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from bench_weights import peak
from random_llama import CHANGED, RANK, SHAPES, config_of, described, made
from tabulate import tabulate
from transformers import LlamaConfig, PreTrainedModel

from tuningvec.data import data_folder
from tuningvec.measures import models
from tuningvec.measures.ablation import ablated, top
from tuningvec.measures.corpus import Tokens
from tuningvec.measures.neurons import activation_profile, total
from tuningvec.measures.patching import SITES, Patcher
from tuningvec.measures.prompts import Prompt, align
from tuningvec.weights import engine
from tuningvec.weights.checkpoint import Checkpoint
from tuningvec.weights.components import MATRICES
from tuningvec.weights.delta import Combination, TuningVector, places
from tuningvec.weights.nulls import NEURONS, alignment_nulls
from tuningvec.weights.subspace import decompose, subspace_alignment

WORKS = ("apply", "decomposition", "SSA", "nulls", "capture", "ablation", "patching")
OF_MODELS = WORKS[4:]
BATCH, WINDOW, PROMPT = 8, 512, 24  # rows of a batch, tokens of a row and of a prompt
STEPS, EXACT = 4, 4  # of integrated attribution; layers that are patched exactly
REPEATS, DRAWS = 3, 99  # pairs with the forward pass; orders of the rows of T
FIELDS = ("machine", "date", "shape", "dtype", "what", "seconds", "limit", "share", "gigabytes")
SINGLE = "float32"  # what weights are combined and decomposed in


class Row(NamedTuple):
    """A measure; `share` is the least time that `limit` allows, over `seconds`; memory is the peak (`measured`)."""

    what: str
    dtype: str
    seconds: float
    limit: str
    share: float
    gigabytes: float


class Limits(NamedTuple):
    """What this machine was measured to do: operations a second by dtype, bytes a second that a copy moves."""

    products: dict[str, float]
    moved: float

    @classmethod
    def measured(cls, dtypes: Iterable[str]) -> "Limits":
        where, big = engine.device(), torch.cuda.is_available()
        size, elements = (8192, 2**30) if big else (1024, 2**25)
        products = {}
        for dtype in dict.fromkeys(dtypes):
            x = torch.randn(size, size, device=where).to(getattr(torch, dtype))
            out = torch.empty_like(x)
            products[dtype] = 2 * size**3 / best(partial(torch.matmul, x, x, out=out), 8)
        source = torch.ones(elements, dtype=torch.uint8, device=where)
        target = torch.empty_like(source)
        return cls(products, 2 * elements / best(lambda: target.copy_(source), 8))

    def row(self, what: str, dtype: str, work: Callable[[], object], passes: Iterable[tuple[float, float]]) -> Row:
        """The row of a work that has to do so many operations, and read so many bytes, in each of its passes."""
        took, memory = measured(work)
        operations, read = map(sum, zip(*passes, strict=True))
        computing, reading = operations / self.products[dtype], read / self.moved
        limit = f"weights read, {self.moved / 1e9:.3g} GB/s" if reading > computing else self.said(dtype)
        return Row(what, dtype, took, limit, max(computing, reading) / took, memory)

    def said(self, dtype: str) -> str:
        return f"products, {self.products[dtype] / 1e12:.3g} TFLOP/s"


def seconds(work: Callable[[], object]) -> float:
    """Until the GPU has done the work too."""
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def best(work: Callable[[], object], repeats: int) -> float:
    return min(seconds(work) for _ in range(repeats))


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and gigabytes at the peak: of the GPU during the work, else of this process so far."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    took = seconds(work)
    return took, (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak()) / 1e9


def full_float32() -> None:
    """Ends the program where float32 products are rounded to TF32, which has 10 bits: k and SSA would be others."""
    if torch.backends.cuda.matmul.allow_tf32 or torch.get_float32_matmul_precision() != "highest":
        sys.exit("float32 products are rounded to TF32 here; decompositions need torch's default, precision 'highest'")


def of_model(pre: Checkpoint, dtype: str, limits: Limits, only: Sequence[str]) -> list[Row]:
    model, rows = models.load(Combination({pre: 1}), pre, dtype), []
    if {"capture", "ablation"} & set(only):
        rows += beside_forward(model, dtype, limits, only)
    if "patching" in only:
        rows += of_patching(model, dtype, limits)
    return rows


def beside_forward(model: PreTrainedModel, dtype: str, limits: Limits, only: Sequence[str]) -> list[Row]:
    """The decoder's plain forward pass, and capture and ablation as shares of its speed over the same batches."""
    count = (4 if torch.cuda.is_available() else 1) * BATCH
    window = min(WINDOW, model.config.hidden_size)
    ids = torch.randint(model.config.vocab_size, (count * window,), dtype=torch.int32)
    given = Tokens(ids, torch.full((count,), window, dtype=torch.int32), window, packed=True, asked=len(ids))
    profile = total(activation_profile(model, given, BATCH, shards=1))

    @torch.no_grad()
    def plain() -> None:
        for first in range(0, count, BATCH):
            some, mask = (x[first : first + BATCH].long().to(model.device) for x in given.rows())
            model.get_decoder()(input_ids=some, attention_mask=mask, use_cache=False)

    def without() -> None:
        with ablated(model, top(profile, 0.05)):
            plain()

    works = dict(capture=lambda: activation_profile(model, given, BATCH, shards=1), ablation=without)
    plain()
    rows = [limits.row("forward pass", dtype, plain, [(2 * of_blocks(model) * given.count, 0)])]
    for name in [name for name in works if name in only]:
        pairs = [(seconds(plain), *measured(works[name])) for _ in range(REPEATS)]
        share = statistics.median(theirs / ours for theirs, ours, _ in pairs)
        took, memory = statistics.median(ours for _, ours, _ in pairs), max(memory for *_, memory in pairs)
        rows.append(Row(name, dtype, took, "forward pass", share, memory))
    return rows


def of_blocks(model: PreTrainedModel) -> int:
    """Weights of the blocks, each of which is multiplied by every token."""
    return sum(p.numel() for p in model.get_decoder().layers.parameters())


def of_patching(model: PreTrainedModel, dtype: str, limits: Limits) -> list[Row]:
    """Attribution and exact patching of a pair of prompts, against products and the reading of weights.

    Where a prompt is short, a pass can be no faster than its weights are read.
    """
    words = torch.randint(3, model.config.vocab_size, (PROMPT + 2,)).tolist()
    clean, corrupt = [*words[:-2]], [*words[:8], *words[-2:], *words[10:-2]]
    pair = align(*(Prompt(ids, ["x"] * len(ids)) for ids in (clean, corrupt)))
    patcher, depth = Patcher(model, (1, 2)), model.config.num_hidden_layers
    of_block, width = of_blocks(model) / depth, getattr(torch, dtype).itemsize

    def one(tokens: int, blocks: int = depth) -> tuple[float, float]:
        return 2 * of_block * blocks * tokens, of_block * blocks * width

    rows = []
    for steps in (1, STEPS):
        work = partial(patcher.attribution, pair, steps)
        work()
        passes = [one(PROMPT)] * 2 + [one(steps * PROMPT)] * 2  # both prompts; there and back
        rows.append(limits.row(f"attribution, steps: {steps}", dtype, work, passes))
    effect = patcher.exact(pair, EXACT).effect[0]  # (L, tokens)
    patched = torch.nonzero(effect.isfinite().any(1))[:, 0].tolist()
    batch = PROMPT * PROMPT  # a row for each token
    passes = [one(PROMPT)] * 2 + [one(batch)] * 2 + [one(batch, depth - layer) for layer in patched for _ in SITES]
    work = partial(patcher.exact, pair, EXACT)
    return [*rows, limits.row(f"exact patching, layers: {len(patched)}", dtype, work, passes)]


def of_weights(pre: Checkpoint, vectors: dict[str, TuningVector], limits: Limits, only: Sequence[str]) -> list[Row]:
    """Decompositions, SSA and nulls against products in float32."""
    rows = []
    if "decomposition" in only:
        theta = Combination({pre: 1})
        named = {part.kind: name for name, part in reversed(places({"": theta}, pre, MATRICES))}
        matrices = [theta.read(name).to(engine.device()) for name in named.values()]
        decompose(matrices[0])
        operations = sum(of_decomposition(*W.shape) for W in matrices)
        work = partial(list, map(decompose, matrices))
        rows.append(limits.row("decomposition of a layer", SINGLE, work, [(operations, 0)]))
    works = dict(SSA=(subspace_alignment, of_alignments), nulls=(partial(alignment_nulls, draws=DRAWS), of_nulls))
    return rows + [of_table(name, *works[name], pre, vectors, limits) for name in works if name in only]


def of_table(
    what: str,
    measure: Callable[..., pd.DataFrame],
    of_row: Callable[[pd.Series], float],
    pre: Checkpoint,
    vectors: dict[str, TuningVector],
    limits: Limits,
) -> Row:
    """The row of a table that is measured, against the operations of its rows and a decomposition of each matrix."""
    tables: list[pd.DataFrame] = []
    took, memory = measured(lambda: tables.append(measure(pre, vectors)))
    rows, matrices = tables[0], tables[0].drop_duplicates(["layer", "kind"])
    operations = sum(map(of_decomposition, matrices.d_out, matrices.d_in)) + rows.apply(of_row, axis=1).sum()
    return Row(what, SINGLE, took, limits.said(SINGLE), operations / limits.products[SINGLE] / took, memory)


def of_decomposition(d_out: int, d_in: int) -> float:
    """Operations of the Gram matrix, its eigenvectors (4/3 + 4/3 + 2 n³, LAPACK's divide and conquer) and V.

    Up to 1000 rows they are done in float64, and yet counted against float32.
    """
    n, m = sorted((d_out, d_in))
    return 2 * 2 * n**2 * m + 14 / 3 * n**3


def of_energies(row: pd.Series, thin: bool) -> float:
    """Operations of a projection on U_k."""
    if not thin:
        return 2 * row.k * row.d_out * row.d_in
    return 2 * RANK * (row.k * row.d_out + RANK * row.d_in + RANK * row.k)


def of_alignments(row: pd.Series, thin: bool | None = None) -> float:
    """The same from the right and from both sides as well, and ‖T Tᵀ‖²."""
    thin = row.vector.startswith("thin") if thin is None else thin
    if not thin:
        more = (row.k + min(row.d_out, row.d_in)) * row.d_in + row.k**2
        return of_energies(row, thin) + 2 * row.d_out * more
    more = row.k * (row.d_in + row.d_out + row.k) + 2 * RANK * row.d_out
    return of_energies(row, thin) + 2 * RANK * more


def of_nulls(row: pd.Series) -> float:
    """SSA of T, of T less W, of the T of other layers, and of neurons in other orders."""
    thin = row.vector.startswith("thin")
    projections = len(row.layers) + (1 + DRAWS) * (row.kind in NEURONS)
    built = 2 * RANK * row.d_out * row.d_in * thin
    return of_alignments(row) + built + of_alignments(row, thin=False) + projections * of_energies(row, thin)


def of_apply(pre: Checkpoint, T: TuningVector) -> Row:
    """θ + T/2, streamed from two checkpoints to a third, against a copy of files by as many threads."""
    with tempfile.TemporaryDirectory(dir=pre.folder.parent) as name:
        files = sorted(pre.folder.glob("*.safetensors"))
        copying = best(lambda: engine.share(files, partial(copied, Path(name))), 2)  # then they were read before
        size = sum(file.stat().st_size for file in Path(name).iterdir())
        for file in Path(name).iterdir():
            file.unlink()
        theta = Combination({pre: 1})
        took = seconds(lambda: (0.5 * T).apply_to(theta).write(Path(name, "half"), like=pre))
    rate = 2 * size / copying  # bytes read and written a second
    return Row("apply", SINGLE, took, f"copy of files, {rate / 1e9:.2f} GB/s", 3 * size / rate / took, peak() / 1e9)


def copied(folder: Path, files: Sequence[Path]) -> None:
    """Copies that the file system cannot replace by links."""
    for file in files:
        with file.open("rb", buffering=0) as source, (folder / file.name).open("wb", buffering=0) as target:
            shutil.copyfileobj(source, target, 2**23)


def rows_of(folder: Path, config: LlamaConfig, dtype: str, only: Sequence[str]) -> list[Row]:
    torch.manual_seed(0)
    full_float32()
    pre, vectors = made(folder, config)
    limits = Limits.measured((dtype, SINGLE))
    rows = [of_apply(pre, vectors["full1"])] if "apply" in only else []
    rows += of_weights(pre, vectors, limits, only)
    return rows + of_model(pre, dtype, limits, only) if set(OF_MODELS) & set(only) else rows


def record(rows: Sequence[Row], shape: str, file: Path) -> None:
    new, date = not file.exists(), datetime.date.today().isoformat()
    with file.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            found = {name: f"{x:.4g}" if isinstance(x, float) else x for name, x in row._asdict().items()}
            writer.writerow(dict(machine=engine.machine(), date=date, shape=shape, **found))


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    for name, size in CHANGED.items():
        parser.add_argument(f"--{name}", type=int, help=f"{size} in place of the shape's")
    parser.add_argument("--dtype", choices=(engine.AUTO, *engine.DTYPES), default=engine.AUTO, help="of the model")
    parser.add_argument("--only", choices=WORKS, nargs="+", default=WORKS)
    parser.add_argument("--folder", type=Path, help="where models are made, kept, and found again")
    parser.add_argument("--record", action="store_true")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> list[Row]:
    options = arguments(given)
    if options.record and not torch.cuda.is_available():
        sys.exit("--record takes a GPU, and torch finds none here; leave it out")
    config = config_of(options.shape, **{name: getattr(options, name) for name in CHANGED})
    with tempfile.TemporaryDirectory() as empty:
        folder = options.folder or Path(empty)
        folder.mkdir(parents=True, exist_ok=True)
        rows = rows_of(folder, config, engine.dtype_name(options.dtype), options.only)
    print(f"{engine.machine()}; {datetime.date.today()}; {described(config)}")
    print(tabulate(rows, headers=Row._fields, tablefmt="github", floatfmt=".3g"))
    if options.record:
        record(rows, described(config), data_folder() / "gpu.csv")
    return rows


if __name__ == "__main__":
    main()
