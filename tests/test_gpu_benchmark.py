"""`make gpu` on a model of a few thousand weights: every row is there, and every number is one."""

import csv
import math
from pathlib import Path

import pytest
import torch

from tuningvec.weights.checkpoint import Checkpoint

BENCHMARKS = Path(__file__).parent / "benchmarks"
ROWS = [
    "apply", "decomposition of a layer", "SSA", "nulls", "forward pass", "capture", "ablation", "attribution, steps: 1",
    "attribution, steps: 4", "exact patching, layers: 2",
]  # fmt: skip


@pytest.fixture
def bench_gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench_gpu

    return bench_gpu


def check(rows, names):
    assert [row.what for row in rows] == names
    for row in rows:
        assert all(math.isfinite(x) and x > 0 for x in (row.seconds, row.share, row.gigabytes)), row
        assert row.limit and row.dtype in ("bfloat16", "float32")


def test_every_measure_has_a_row_of_finite_numbers(bench_gpu, tmp_path, capsys):
    rows = bench_gpu.main(["--shape", "tiny", "--folder", str(tmp_path)])
    check(rows, ROWS)
    printed = capsys.readouterr().out
    assert "hidden 64, MLP 176, layers 2, heads 4/2" in printed and all(f"| {name} " in printed for name in ROWS)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    again = bench_gpu.main(["--shape", "tiny", "--folder", str(tmp_path), "--only", "capture"])
    check(again, ["forward pass", "capture"])
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}  # and nothing is left
    with pytest.raises(SystemExit, match="holds models of another shape"):
        bench_gpu.main(["--shape", "tiny", "--layers", "1", "--folder", str(tmp_path)])


def test_vectors_are_as_long_as_they_are_said_to_be(bench_gpu, tmp_path):
    import random_llama

    pre, vectors = random_llama.made(tmp_path, random_llama.config_of("tiny"))
    assert isinstance(pre, Checkpoint) and list(vectors) == ["full1", "thin1", "full2", "thin2"]
    name = "model.layers.1.mlp.up_proj.weight"
    W, one, other = pre.read(name), vectors["full1"].read(name), vectors["full2"].read(name)
    assert one.norm() / W.norm() == pytest.approx(random_llama.RELATIVE, rel=0.1)
    assert abs(float(torch.sum(one * other) / one.norm() / other.norm())) < 0.1
    assert torch.linalg.matrix_rank(vectors["thin1"].read(name)) == random_llama.RANK


def test_rows_are_added_to_those_that_are_there(bench_gpu, tmp_path):
    row, file = bench_gpu.Row("SSA", "float32", 1.23456, "products, 50 TFLOP/s", 0.5, 3.0), tmp_path / "gpu.csv"
    for _ in range(2):
        bench_gpu.record([row], "hidden 64", file)
    with file.open(encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    assert [one["what"] for one in found] == ["SSA", "SSA"] and found[0]["seconds"] == "1.235"
    assert found[0].keys() == set(bench_gpu.FIELDS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_nothing_is_recorded_of_a_machine_without_a_gpu(bench_gpu):
    with pytest.raises(SystemExit, match="--record takes a GPU"):
        bench_gpu.main(["--shape", "tiny", "--record"])


def test_float32_products_must_be_whole(bench_gpu):
    bench_gpu.full_float32()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with pytest.raises(SystemExit, match="TF32"):
            bench_gpu.full_float32()
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_every_measure_has_a_row_too(bench_gpu):
    sizes = ["--width", "1024", "--mlp", "2816", "--layers", "4", "--vocabulary", "8192"]
    check(bench_gpu.main(["--shape", "1b", *sizes]), [*ROWS[:-1], "exact patching, layers: 4"])
