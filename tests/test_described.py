"""Families written from checkpoints and pinned to commits, by a hub that answers on this machine."""

import json
import math
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tuningvec.__main__ import main
from tuningvec.book import checking
from tuningvec.errors import TuningVecError
from tuningvec.family import described, hub
from tuningvec.family.spec import Family

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
MODELS = {
    "me/base": dict(gated=False, cardData={"license": "apache-2.0"}, size=2e9),
    "me/closed": dict(gated="manual", cardData={"license": "other", "license_name": "mine"}, size=1e9),
    "me/huge": dict(gated=False, cardData={}, size=1e18),
}


class Answers(BaseHTTPRequestHandler):
    """The hub's two questions: what is this model at this commit, and may I read it."""

    def do_GET(self) -> None:
        owner, model, *rest = self.path.split("?")[0].removeprefix("/api/models/").split("/")
        about = MODELS.get(f"{owner}/{model}")
        if about is None:
            self._say(404, {}, "RepoNotFound")
        elif rest == ["auth-check"]:
            self._say(403 if about["gated"] else 200, {}, "GatedRepo" if about["gated"] else "")
        elif rest[:1] == ["revision"] and rest[1] != COMMIT:
            self._say(404, {}, "RevisionNotFound")
        else:
            files = [
                dict(rfilename="model.safetensors", size=about["size"]),
                dict(rfilename="pytorch_model.bin", size=9e9),
            ]
            self._say(200, dict(about, id=f"{owner}/{model}", sha=COMMIT, siblings=files), "")

    def _say(self, status: int, body: object, code: str) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def answering(monkeypatch, tmp_path):
    """A hub on this machine."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield
    server.shutdown()
    server.server_close()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_what_the_hub_tells_of_a_model(answering):
    assert hub.look_up("me/base") == hub.OnHub(COMMIT, 2.0, "apache-2.0", False)
    for asked, said in (
        (("me/closed",), "me/closed is gated: accept its licence at .*/me/closed"),
        (("me/none",), "me/none: no such model"),
        (("me/base", OTHER), f"me/base: no commit {OTHER}"),
    ):
        with pytest.raises(TuningVecError, match=said):
            hub.look_up(*asked)


def test_without_a_network_the_hub_is_not_asked(offline):
    with pytest.raises(hub.Unreached, match="unset HF_HUB_OFFLINE"):
        hub.look_up("me/base")


def test_a_family_is_written_from_checkpoints(tmp_path, make_checkpoint, offline, capsys):
    make_checkpoint("base", seed=0), make_checkpoint("tuned", seed=1)
    (tmp_path / "tuned" / "README.md").write_text("---\nlicense: mit\n---\nA card.\n")
    command = ["new", "mine", "--pretrained", str(tmp_path / "base"), "--license", "Apache-2.0", "--to", str(tmp_path)]
    members = [f"medicine={tmp_path / 'tuned'}", f"medicine={tmp_path / 'tuned'}", f"instruct=me/chat@{COMMIT}"]
    assert main([*command, *(word for member in members for word in ("--member", member))]) == 0
    said, family = capsys.readouterr().out, Family.load(tmp_path / "mine.yaml")
    assert f"tuningvec run {tmp_path / 'mine.yaml'}" in said and "tuningvec pin" not in said
    assert [(m.name, m.license, m.source.kind) for m in family.members] == [
        ("base", "Apache-2.0", "folder"),
        ("medicine", "mit", "folder"),
        ("medicine2", "mit", "folder"),
        ("instruct", "Apache-2.0", "hub"),
    ]
    assert [m.role for m in family.fine_tuned] == ["domain", "domain", "instruct"]
    assert (
        family.member("base").source.path.as_posix() == "base" and family.member("instruct").source.revision == COMMIT
    )
    assert main([*command, "--member", members[0]]) == 1
    assert "is there; choose another name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "member", "said"),
    [
        ("Mine", "medicine=.", "no name of a family"),
        ("mine", "medicine", "write DOMAIN=SOURCE"),
        ("mine", "medicine=nowhere", "nowhere: no folder, no GGUF file"),
    ],
)
def test_what_cannot_be_a_family_is_said_and_nothing_is_written(tmp_path, name, member, said):
    with pytest.raises(TuningVecError, match=said):
        described.write(name, str(tmp_path), [member], lambda _: None, tmp_path / "families")
    assert not (tmp_path / "families").exists()


def on_hub(file, **sources):
    """A family of members on the hub, {name: source}."""
    first, *rest = [dict(name=n, label=n, license="MIT", source=dict(kind="hub", **s)) for n, s in sources.items()]
    rest = [dict(member, role="domain", domain="law") for member in rest]
    spec = dict(title="Mine", summary="x", limits="x", pretrained=first, fine_tuned=rest, prompt={})
    file.write_text("# kept\n" + yaml.safe_dump(spec), encoding="utf-8")
    return file


@pytest.mark.parametrize("flow", [False, True])
def test_commits_are_written_beside_the_models_and_nothing_else_changes(tmp_path, answering, flow, capsys):
    file = tmp_path / "mine.yaml"
    on_hub(file, base=dict(repo="me/base"), tuned=dict(repo="me/base", revision=OTHER, gigabytes=2.0))
    if flow:
        spec = yaml.safe_load(file.read_text())
        file.write_text("# kept\n" + yaml.safe_dump(spec, default_flow_style=None))
    before = file.read_text()
    with pytest.raises(TuningVecError, match=r"pretrained\.source\.revision: no commit of me/base"):
        Family.load(file)
    assert main(["pin", str(file)]) == 0
    assert capsys.readouterr().out == f"me/base: {COMMIT}\n"
    assert [m.source.revision for m in Family.load(file).members] == [COMMIT, COMMIT]
    text = file.read_text()
    assert text.startswith("# kept\n") and yaml.safe_load(text)["fine_tuned"][0]["source"]["gigabytes"] == 2.0
    kept = text.replace(f", revision: {COMMIT}", "").replace(f"revision: {COMMIT}", "").split()
    assert kept == before.replace(f", revision: {OTHER}", "").replace(f"revision: {OTHER}", "").split()
    assert described.pin(str(file)) == {}
    with pytest.raises(hub.TuningVecError, match="no such model"):
        described.pin(str(on_hub(file, base=dict(repo="me/none"), tuned=dict(repo="me/base"))))


def problems(file):
    return "\n".join(checking.checked(Family.load(file, files=False)).problems)


def test_a_check_names_what_is_gated_lacks_a_commit_or_has_no_room(tmp_path, answering):
    file = on_hub(
        tmp_path / "mine.yaml",
        base=dict(repo="me/base", revision=OTHER), closed=dict(repo="me/closed", revision=COMMIT),
        huge=dict(repo="me/huge"),
    )  # fmt: skip
    said = problems(file)
    assert f"base: me/base: no commit {OTHER}" in said and "closed: me/closed is gated" in said
    assert "huge: no commit of me/huge; `tuningvec pin mine`" in said
    assert "1000000000.0 GB do not fit into" in said


def test_a_check_without_a_network_goes_by_what_the_file_tells(tmp_path, offline):
    source = dict(repo="me/base", revision=COMMIT, gigabytes=16.1, gated=True)
    found = checking.checked(Family.load(on_hub(tmp_path / "m.yaml", base=source, tuned=source), files=False))
    assert "base: to be fetched, 16.1 GB, gated: accept its licence" in found.lines[0]
    assert any(line.startswith("to be fetched: 32.2 GB") for line in found.lines)


@pytest.fixture
def two(tmp_path, make_checkpoint):
    """A family of a random model and a copy that is changed a little, with tokenizers."""
    import shutil

    from safetensors.torch import load_file, save_file

    folder = make_checkpoint("base")
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}}))
    shutil.copytree(folder, tmp_path / "tuned")
    file = tmp_path / "tuned" / "model.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    return described.write("mine", str(folder), [f"law={tmp_path / 'tuned'}"], lambda _: "MIT", tmp_path)


def test_a_family_with_nothing_wrong_is_told_so(two, capsys):
    assert main(["check", str(two)]) == 0
    assert capsys.readouterr().out.endswith("nothing stands in the way\n")


def test_a_check_names_a_missing_shard(two, tmp_path):
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "tuned" / "model.safetensors").rename(tmp_path / "tuned" / "model-00002-of-00002.safetensors")
    (tmp_path / "tuned" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors" in problems(two)


def test_a_check_names_another_architecture_and_another_base(two, tmp_path, make_checkpoint):
    make_checkpoint("tuned", seed=1)
    lines = checking.checked(Family.load(two, files=False)).lines
    assert any("law: T is longer than half of the pretrained weights" in line for line in lines)
    make_checkpoint("tuned", num_attention_heads=2)
    assert "was not fine-tuned from" in problems(two)


def test_a_check_names_another_tokenizer(two, tmp_path):
    (tmp_path / "tuned" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 1, "b": 0, "c": 2}}}))
    assert "law: another tokenizer: 2 of 2 tokens have another row" in problems(two)


def test_a_check_names_too_little_memory(two, monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Free", (), dict(available=100)))
    assert "does not fit into 0.0 GB of memory" in problems(two)


def test_a_check_reads_samples_and_not_the_weights(two, monkeypatch):
    from tuningvec.weights.checkpoint import Checkpoint

    read, whole = [], Checkpoint.read

    def counted(self, name, *rows):
        found = whole(self, name, *rows)
        read.append(found.numel())
        return found

    monkeypatch.setattr(Checkpoint, "read", counted)
    checking.checked(Family.load(two, files=False), costed=False)
    assert 0 < len(read) <= 2 * checking.SAMPLED[0]


def test_every_family_that_ships_is_whole_or_says_what_it_lacks(offline, capsys):
    assert main(["list"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert "weights at hand" in lines["tiny"] and "48 GB on the hub" in lines["llama3"]
    assert "1 without a commit" in lines["qwen2.5"] and "without a commit" not in lines["qwen2.5_0.5b"]


SHAPES = dict(layers=32, d=4096, d_m=14336, heads=32, kv=8, vocabulary=128256)  # Meta-Llama-3-8B


def sparse(folder, layers, d, d_m, heads, kv, vocabulary):
    """A folder with the headers of an 8B Llama in two shards, and holes for its 16 GB of weights."""
    from safetensors import safe_open

    folder.mkdir()
    narrow = d * kv // heads
    block = dict(q=(d, d), k=(narrow, d), v=(narrow, d), o=(d, d))
    shapes = {f"model.layers.{i}.self_attn.{n}_proj.weight": s for i in range(layers) for n, s in block.items()}
    ways = dict(gate=(d_m, d), up=(d_m, d), down=(d, d_m))
    shapes |= {f"model.layers.{i}.mlp.{n}_proj.weight": s for i in range(layers) for n, s in ways.items()}
    norms = ("input_layernorm", "post_attention_layernorm")
    shapes |= {f"model.layers.{i}.{norm}.weight": (d,) for i in range(layers) for norm in norms}
    shapes |= {
        "model.embed_tokens.weight": (vocabulary, d),
        "model.norm.weight": (d,),
        "lm_head.weight": (vocabulary, d),
    }
    names, index = list(shapes), {}
    for number, some in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        header, end = {}, 0
        for name in some:
            begin, end = end, end + 2 * math.prod(shapes[name])
            header[name] = dict(dtype="BF16", shape=shapes[name], data_offsets=[begin, end])
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file = folder / f"model-{number:05}-of-00002.safetensors"
        file.write_bytes(len(text).to_bytes(8, "little") + text)
        os.truncate(file, 8 + len(text) + end)
        index |= dict.fromkeys(some, file.name)
        with safe_open(file, "pt") as found:
            assert len(found.keys()) == len(some)
    (folder / "model.safetensors.index.json").write_text(json.dumps(dict(metadata={}, weight_map=index)))
    config = dict(
        model_type="llama", architectures=["LlamaForCausalLM"], num_hidden_layers=layers, hidden_size=d,
        vocab_size=vocabulary, intermediate_size=d_m, num_attention_heads=heads, num_key_value_heads=kv,
        max_position_embeddings=8192, rope_theta=500000.0, torch_dtype="bfloat16",
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="bytes read are counted by Linux")
def test_a_check_of_a_family_of_8_billion_parameters_reads_a_thousandth_of_it(tmp_path):
    base, tuned = (sparse(tmp_path / name, **SHAPES) for name in ("base", "tuned"))
    file = described.write("large", str(base), [f"medicine={tuned}"], lambda _: "MIT", tmp_path)
    whole = sum(f.stat().st_size for folder in (base, tuned) for f in folder.iterdir())

    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = read()
    found = checking.checked(Family.load(file, files=False), costed=False)
    assert whole > 30e9 and read() - before < whole / 1000
    assert "one model in" in "\n".join(found.lines) and not [p for p in found.problems if "does not fit into" not in p]
