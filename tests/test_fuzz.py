"""Whatever a file holds, reading it ends in a result or in one TuningVecError, within seconds and a gigabyte.

`make soak` runs many more inputs of each kind than the tests do.
"""

import gzip
import hashlib
import io
import json
import lzma
import os
import random
import re
import resource
import shutil
import tarfile
import time
import warnings
from collections.abc import Callable
from itertools import count
from pathlib import Path

import gguf
import pytest
import safetensors.torch
import torch
import yaml
from conftest import SIZES
from fuzzing import raw, text, value
from transformers import LlamaConfig, LlamaForCausalLM

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family import members, shipped
from tuningvec.family.spec import Family, TextFiles
from tuningvec.measures import corpus
from tuningvec.measures.contributed import problems
from tuningvec.measures.prompts import Prompts
from tuningvec.store import Store
from tuningvec.tasks import items
from tuningvec.weights import fitting
from tuningvec.weights.checkpoint import INDEX, SINGLE, Checkpoint, LowRank
from tuningvec.weights.components import components

INPUTS = int(os.environ.get("TUNINGVEC_SOAK") or 40)
SECONDS, BYTES = 10, 2**30


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> Callable[[Callable[[random.Random], object]], dict[str, int]]:
    """Try so many inputs, each from its own seed; returns how many were read and how many refused.

    With TUNINGVEC_TRIALS the counts are added to that file, which the book shows.
    """

    def tried(one: Callable[[random.Random], object]) -> dict[str, int]:
        ends, before = dict(read=0, refused=0), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(INPUTS):
            begun = time.monotonic()
            try:
                one(random.Random(seed))
                ends["read"] += 1
            except TuningVecError as error:
                assert str(error), seed
                ends["refused"] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
            assert time.monotonic() - begun < SECONDS, seed
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES
        if trials := os.environ.get("TUNINGVEC_TRIALS"):
            what = re.sub(r"^test_(\w+?)(?:\[(.*)\])?$", r"\1 \2", request.node.name).replace("_", " ").strip()
            with open(trials, "a", encoding="utf-8") as stream:
                stream.write(f"{what},{INPUTS},{ends['read']},{ends['refused']}\n")
        return ends

    return tried


def split(file: Path) -> tuple[dict, bytes]:
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def test_safetensors_are_read_as_the_library_reads_them_or_refused(make_checkpoint, soak):
    file = make_checkpoint("m", num_hidden_layers=1) / SINGLE
    whole, (header, data) = file.read_bytes(), split(file)

    def one(rng):
        if rng.random() < 0.3:
            file.write_bytes(raw(whole[:4000], rng) + whole[4000:])
        else:
            told = text(header, rng)
            file.write_bytes(len(told).to_bytes(8, "little") + told + data)
        found = Checkpoint(file.parent)
        expected = safetensors.torch.load_file(file)  # refuses what we must have refused
        assert found.shapes == {name: tuple(tensor.shape) for name, tensor in expected.items()}
        for name, tensor in expected.items():
            assert torch.equal(found.read(name).nan_to_num(), tensor.float().nan_to_num())

    assert min(soak(one).values()) > 0


def test_an_index(make_checkpoint, soak):
    folder = make_checkpoint("m")
    (folder / SINGLE).rename(folder / "a.safetensors")
    names = split(folder / "a.safetensors")[0].keys() - {"__metadata__"}
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(sorted(names), "a.safetensors")}

    def one(rng):
        (folder / INDEX).write_bytes(text(index, rng))
        Checkpoint(folder)

    assert min(soak(one).values()) > 0


@pytest.mark.parametrize("architecture", ["llama", "phi3"])
def test_a_config(make_checkpoint, soak, architecture):
    before, folder = Checkpoint(make_checkpoint("before", architecture)), make_checkpoint("m", architecture)
    config = json.loads((folder / "config.json").read_text())

    def one(rng):
        (folder / "config.json").write_bytes(text(config, rng))
        found = Checkpoint(folder)
        for name in found.shapes:
            components(name, found.config)
        fitting.fit(before, found)

    assert min(soak(one).values()) > 0


def test_an_adapter(tmp_path, soak):
    shutil.copytree(data_folder() / "families" / "smollm2" / "medical", tmp_path / "a")
    config, file = tmp_path / "a" / "adapter_config.json", tmp_path / "a" / "adapter_model.safetensors"
    told, (header, data) = json.loads(config.read_text()), split(file)

    def one(rng):
        changed = rng.random() < 0.5
        config.write_bytes(text(told, rng) if changed else json.dumps(told).encode())
        head = json.dumps(header).encode() if changed else text(header, rng)
        file.write_bytes(len(head).to_bytes(8, "little") + head + data)
        found = LowRank(tmp_path / "a")
        for name in list(found.shapes)[:3]:
            found.read(name)

    assert min(soak(one).values()) > 0


def test_a_family(tmp_path, soak):
    spec = yaml.safe_load((data_folder() / "families" / "tiny.yaml").read_text(encoding="utf-8"))
    (tmp_path / "tiny").symlink_to(data_folder() / "families" / "tiny")
    (tmp_path / "template.jinja").write_text("{{ messages }}")
    spec["prompt"]["chat_template"] = "template.jinja"
    spec["corpora"] = {"medical": dict(kind="files", path=str(data_folder() / "corpora" / "medical.jsonl"))}
    del spec["replies"]
    file = tmp_path / "mine.yaml"

    def one(rng):
        if rng.random() < 0.3:
            file.write_bytes(raw(yaml.safe_dump(spec).encode(), rng))
        else:
            file.write_text(yaml.safe_dump(value(spec, rng)), encoding="utf-8", errors="surrogatepass")
        family = Family.load(file)
        assert family.template is None or family.template
        for member in family.members:
            members.weights(family, member.name)
        json.dumps(family.model_dump(mode="json"))

    assert min(soak(one).values()) > 0


@pytest.fixture
def make_gguf(tmp_path):
    """Write a one-layer Llama as GGUF; returns its file."""
    file, vocabulary = tmp_path / "m.gguf", [*map(chr, range(33, 94)), '!"', "<s>", "</s>"]
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES | dict(num_hidden_layers=1))
    weights = LlamaForCausalLM(config).state_dict()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([gguf.TokenType.NORMAL] * 62 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(['! "'])
    writer.add_eos_token_id(63)
    for name, tensor in weights.items():
        writer.add_tensor(names.get_name(name, (".weight",)), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf(tmp_path, soak, make_gguf):
    whole, runs = make_gguf.read_bytes(), count()

    def one(rng):
        cut = rng.choice((4000, len(whole)))  # mostly the header
        make_gguf.write_bytes(raw(whole[:cut], rng) + whole[cut:])
        made = tmp_path / f"made{next(runs)}"
        try:
            members._convert(make_gguf, made)
            Checkpoint(made)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    assert min(soak(one).values()) > 0


def packed(name: str, content: bytes) -> bytes:
    if not name.endswith("gz"):
        return content
    if name.endswith(".tar.gz"):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            member = tarfile.TarInfo("PMC1.txt")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        content = stream.getvalue()
    return gzip.compress(content)


LINES = b'{"text": "One document of some words."}\n{"text": "And another, \\u00e9."}\n'
XML = (
    b"<article><front><article-title>T</article-title></front>"
    b"<body><p>Words <xref ref-type='bibr'>1</xref>.</p></body></article>"
)


ROWS = dict(drugs="choice", visits="text", functions="function")
CORPORA = {
    "a.txt": b"Words.\n==== Body\nOf it.\n==== Refs\n1",
    "a.jsonl": LINES,
    "a.jsonl.gz": LINES,
    "a.xml": XML,
    "a.nxml.gz": XML,
    "a.tar.gz": b"A text in an archive.",
}


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus(tmp_path, soak, name):
    content = CORPORA[name]
    whole = packed(name, content)

    def one(rng):
        inside = rng.random() < 0.5
        (tmp_path / name).write_bytes(packed(name, raw(content, rng)) if inside else raw(whole, rng))
        for document in corpus.documents(TextFiles(kind="files", path=Path(name)), tmp_path):
            document.encode()

    assert min(soak(one).values()) > 0


def test_prompt_pairs(tmp_path, soak):
    spec = yaml.safe_load((data_folder() / "patching" / "drugs.yaml").read_text(encoding="utf-8"))

    def one(rng):
        file = tmp_path / "pairs.yaml"
        file.write_text(yaml.safe_dump(value(spec, rng)), encoding="utf-8", errors="surrogatepass")
        assert Prompts.read(file).kinds

    assert min(soak(one).values()) > 0


def test_a_store(tmp_path, soak):
    record = Store(tmp_path).record("table", {"x": 1}, "tuningvec.errors")
    record.add("a", [{"v": 0.1, "w": "text"}])
    record.add("b", [{"v": None}], {"sums": torch.arange(9.0)})
    (rows,), (arrays,) = tmp_path.glob("table-*.jsonl"), tmp_path.glob("table-*.safetensors")
    whole = {file: file.read_bytes() for file in (rows, arrays)}
    expected = {"a": [{"v": 0.1, "w": "text"}], "b": [{"v": None}]}

    def one(rng):
        for file, content in whole.items():
            file.write_bytes(raw(content, rng) if rng.random() < 0.6 else content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = Store(tmp_path).record("table", {"x": 1}, "tuningvec.errors")
        assert found.pieces.items() <= expected.items()
        assert "b" not in found or torch.equal(found.arrays("b")["sums"], torch.arange(9.0))

    soak(one)


@pytest.mark.parametrize("name", ROWS)
def test_items_of_a_task(tmp_path, soak, monkeypatch, name):
    monkeypatch.setenv("TUNINGVEC_DATA", str(tmp_path))
    (tmp_path / "tasks").mkdir()
    shipped = Path(items.__file__).parents[2] / "data" / "tasks" / f"{name}.jsonl"
    lines = [json.loads(line) for line in shipped.read_text(encoding="utf-8").splitlines()[:4]]

    def one(rng):
        place = rng.randrange(len(lines))
        changed = [text(line, rng) if i == place else json.dumps(line).encode() for i, line in enumerate(lines)]
        (tmp_path / "tasks" / "mine.jsonl").write_bytes(b"\n".join(changed))
        items.load(dict(file="mine.jsonl", rows=ROWS[name]))

    assert min(soak(one).values()) > 0


def test_what_ships(tmp_path, soak, monkeypatch):
    for name in ("corpora", "tasks", "replies", "patching"):
        (tmp_path / name).symlink_to(data_folder() / name)
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "smollm2").symlink_to(data_folder() / "families" / "smollm2")
    for name in ("smollm2.yaml", "smollm2_full.yaml"):  # alone: its weights may be at hand
        shutil.copy(data_folder() / "families" / name, tmp_path / "families")
    source = data_folder() / "measured" / "smollm2_full"
    about, name = shipped.provenance(source), "02_4-similarity"
    table = json.loads(lzma.decompress((source / f"{name}.json.xz").read_bytes()))
    folder = tmp_path / "measured" / "smollm2_full"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TUNINGVEC_DATA", str(tmp_path))

    def one(rng):
        packed = lzma.compress(text(table, rng), preset=0)
        packed = raw(packed, rng) if rng.random() < 0.1 else packed
        (folder / f"{name}.json.xz").write_bytes(packed)
        ours = dict(about, tables={name: dict(about["tables"][name], sha256=hashlib.sha256(packed).hexdigest())})
        (folder / shipped.PROVENANCE).write_bytes(text(ours, rng) if rng.random() < 0.3 else json.dumps(ours).encode())
        family = Family.load("smollm2_full")
        if any(problems(family)):
            raise TuningVecError("told")
        shipped.notice(family)

    assert min(soak(one).values()) > 0
