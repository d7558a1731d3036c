"""Replies that lm-eval's own program wrote are taken in as if they had been measured here."""

import json
import logging
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from tuningvec.__main__ import main
from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import evals, imported, models
from tuningvec.store import Store

NAMES = ["tuningvec_drugs", "tuningvec_arithmetic", "tuningvec_functions", "tuningvec_drugs_likelihood"]
LIMIT = 36  # more than a window of items


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """What lm-eval's hf backend writes of `medical` of `tiny`, as its command line does."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folder, family = tmp_path_factory.mktemp("lm-eval"), Family.load("tiny")
    imported.write_tasks(family.prompt, NAMES, folder / "tasks")
    one = models.Opened(family, "medical")
    one.weights.write(folder / "model", one.like, one.prompted)
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    lm = HFLM(pretrained=str(folder / "model"), dtype="float32", device="cpu", batch_size=8, max_length=512)
    for names, chat in ((NAMES[:3], True), (NAMES[3:], False)):
        tracker = EvaluationTracker(output_path=str(folder / "samples"))
        found = simple_evaluate(
            lm, tasks=names, task_manager=manager, limit=LIMIT, bootstrap_iters=0, apply_chat_template=chat,
            fewshot_as_multiturn=chat, log_samples=True, evaluation_tracker=tracker, confirm_run_unsafe_code=True,
        )  # fmt: skip
        samples = found.pop("samples")
        tracker.save_results_aggregated(results=found, samples=samples)
        for name in names:
            tracker.save_results_samples(task_name=name, samples=samples[name])
    return folder / "samples"


@pytest.fixture
def samples(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "samples"))


@pytest.fixture
def tiny_of_one(tmp_path) -> Path:
    """The family `tiny` with one specialist, from which no sum can be made."""
    families = data_folder() / "families"
    spec = yaml.safe_load((families / "tiny.yaml").read_text(encoding="utf-8"))
    spec["fine_tuned"] = [member for member in spec["fine_tuned"] if member["name"] == "medical"]
    for member in (spec["pretrained"], *spec["fine_tuned"]):
        member["source"]["path"] = str(families / member["source"]["path"])
    del spec["corpora"], spec["replies"]
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return tmp_path / "one.yaml"


def asked() -> tuple[models.Opened, dict]:
    family = Family.load("tiny")
    return models.Opened(family, "medical"), evals.tasks(NAMES, family.prompt)


def test_imported_replies_make_the_tables_that_measured_ones_make(samples, tmp_path, monkeypatch):
    one, tasks = asked()
    counts = imported.take(one, tasks, samples, store=Store(tmp_path / "store"))
    assert counts == dict.fromkeys(NAMES, LIMIT) | {NAMES[2]: 32}  # it has no more
    expected = evals.run([one], tasks, limit=LIMIT)
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("a model was loaded"))
    found = evals.run([asked()[0]], tasks, limit=LIMIT, store=Store(tmp_path / "store"))
    told = ["ended", "stopped_token"]  # lm-eval drops what stopped a reply
    chosen = expected.task == NAMES[3]
    same = expected.columns.difference([*told, "reply"])
    pd.testing.assert_frame_equal(found[same], expected[same])
    assert found.reply[~chosen].tolist() == expected.reply[~chosen].tolist()
    for one_reply, other in zip(found.reply[chosen], expected.reply[chosen], strict=True):
        (ours, theirs) = (json.loads(reply) for reply in (one_reply, other))
        assert [top for _, top in ours] == [top for _, top in theirs]
        assert [logp for logp, _ in ours] == pytest.approx([logp for logp, _ in theirs], abs=1e-4)
    assert {run["imported"].split(", ")[1] for run in found.attrs["runs"]} == {"a model in memory"}
    assert imported.take(asked()[0], tasks, samples, store=Store(tmp_path / "store"))  # twice is once
    assert len(evals.run([asked()[0]], tasks, limit=LIMIT, store=Store(tmp_path / "store"))) == len(found)


def changed(samples: Path, task: str, change) -> None:
    (file,) = (f for f in samples.rglob("*.jsonl") if f.name.startswith(f"samples_{task}_2"))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in change(lines)))


def other_prompt(lines):
    lines[3]["arguments"]["gen_args_0"]["arg_0"] += "?"
    return lines


def longer(lines):
    lines[0]["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"] = 4096
    return lines


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_prompt, "item 3 was asked otherwise than here"),
        (longer, "item 0 was asked otherwise than here: .*4096"),
        (lambda lines: lines[1:], "item 0 is not in it"),
        (lambda lines: [{"a": 1}], "doc_id"),
        (lambda lines: [dict(line, resps=[]) for line in lines], "write it again"),
    ],
)
def test_replies_to_something_else_are_refused_and_nothing_is_kept(samples, tmp_path, change, said):
    changed(samples, NAMES[0], change)
    one, tasks = asked()
    with pytest.raises(TuningVecError, match=said):
        imported.take(one, {NAMES[0]: tasks[NAMES[0]]}, samples, store=Store(tmp_path / "store"))
    assert not list(tmp_path.glob("store/evals-*"))


def test_another_version_of_a_task_and_a_file_alone_are_refused(samples):
    one, tasks = asked()
    for file in samples.rglob("results_*.json"):
        file.write_text(file.read_text().replace('"tuningvec_drugs": 1', '"tuningvec_drugs": 7'))
    with pytest.raises(TuningVecError, match="version 7 of tuningvec_drugs; here it is 1"):
        imported.take(one, {NAMES[0]: tasks[NAMES[0]]}, samples)
    for file in samples.rglob("results_*.json"):
        file.unlink()
    with pytest.raises(TuningVecError, match="keep the folder whole"):
        imported.take(one, tasks, samples)
    with pytest.raises(TuningVecError, match="no samples of tuningvec_drugs, "):
        imported.take(one, tasks, samples / "none")


def test_commands_ask_what_pages_ask(tmp_path, capsys):
    assert main(["replies", "tiny", "--to", str(tmp_path), "-p", "03_2.scales=[0,0.5,1]", "--limit", "8"]) == 0
    text = (tmp_path / "replies.sh").read_text()
    assert "write tiny medical=0.5 pretrained=0.5\n" in text  # the one that is prompted first
    assert "write tiny medical=0 math=1\n" in text
    assert text.count("--limit 8") == text.count("|| ask ") and text.count("\nif ") == text.count("\nfi")
    assert "tuningvec import tiny" in capsys.readouterr().out
    assert {file.stem for file in (tmp_path / "tasks").iterdir()} >= {"drugs", "arithmetic", "drugs_likelihood"}


def test_a_sum_is_written_with_the_coefficients_that_pages_ask(tmp_path):
    given = ["-p", "03_2.scales=[0,0.333333333333,1]", "--only", "03_2"]
    assert main(["replies", "tiny", "--to", str(tmp_path), *given]) == 0
    assert "write tiny medical=0.666666666667 pretrained=0.333333333333\n" in (tmp_path / "replies.sh").read_text()


def test_pages_that_a_family_does_not_have_are_not_asked(tmp_path, tiny_of_one):
    assert main(["replies", str(tiny_of_one), "--to", str(tmp_path / "replies")]) == 0
    assert "write " in (tmp_path / "replies" / "replies.sh").read_text()


def test_samples_of_one_model_are_taken_in_by_its_name(samples, capsys):
    assert main(["import", "tiny", str(samples), "medical"]) == 0
    assert f"{LIMIT} of tuningvec_drugs" in capsys.readouterr().out
    assert main(["import", "tiny", str(samples)]) == 1
    assert "no samples; run" in capsys.readouterr().err
