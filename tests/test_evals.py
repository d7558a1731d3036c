"""Benchmarks on models whose replies are known, on members, and on sums of them; beside plain lm-eval."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import lm_eval
import numpy as np
import pandas as pd
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import Tensor
from transformers import GenerationMixin, LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family, Prompt
from tuningvec.measures import evals, models, prompts, scores
from tuningvec.store import Store
from tuningvec.tasks import FOLDER, scoring

MIRROR = Path(__file__).parents[2] / "shared" / "mirror"
ROOMY = dict(max_position_embeddings=10_000, vocab_size=10_000)
ASKED = Prompt(system={"medicine": "Answer."}, worked={"medicine": []})
STOCK = Path(lm_eval.__file__).parent / "tasks"


class Scripted(PreTrainedModel, GenerationMixin):
    """A model that says what it was told to say after each prompt, and goes on with the last token for ever."""

    config_class = LlamaConfig

    def __init__(self, config: LlamaConfig, script: Mapping[tuple[int, ...], list[int]], pad: int):
        super().__init__(config)
        self.script, self.pad = script, pad
        self.anything = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: object) -> CausalLMOutput:
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        logits = torch.zeros(*input_ids.shape, self.config.vocab_size)
        for row, (ids, mask) in enumerate(zip(input_ids.tolist(), attention_mask.tolist(), strict=True)):
            read = ids[mask.index(1) :]
            prompt, reply = next((p, r) for p, r in self.script.items() if tuple(read[: len(p)]) == p)
            logits[row, -1, reply[min(len(read) - len(prompt), len(reply) - 1)]] = 1
        return CausalLMOutput(logits=logits)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: object
    ) -> dict[str, Tensor]:
        return dict(input_ids=input_ids, attention_mask=attention_mask)


def scripted(task_name: str, replies: Sequence[str], pad_is_end: bool) -> tuple[Scripted, PreTrainedTokenizerBase]:
    """A model with a reply to each of the first items of a task; a reply that ends in "…" is not ended by it."""
    tiny = Family.load("tiny")
    tokenizer = models.Opened(tiny, "medical").tokenizer
    if pad_is_end:
        tokenizer.pad_token = tokenizer.eos_token
    task = evals.tasks([task_name], ASKED)[task_name]
    asked = evals.requests(task, tokenizer, chat=True, limit=len(replies), config=ROOMY)
    script = {}
    for (instance,), reply in zip(asked, replies, strict=True):
        ids = tokenizer(reply.removesuffix("…"), add_special_tokens=False)["input_ids"]
        end = [] if reply.endswith("…") else [tokenizer.eos_token_id]
        script[tuple(tokenizer(instance.args[0], add_special_tokens=False)["input_ids"])] = ids + end
    config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=1, max_position_embeddings=10_000)
    model = Scripted(config, script, tokenizer.pad_token_id)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


REPLIES = {  # to the first questions of `drugs`, whose right answers are A, B, C, … as they come
    "<think>It is so.</think>\nAnswer: [{right}]": (1, 1, 1, 1, 1, 1, 1),
    "<think>It is so.</think>\nAnswer: [{right}]…": (1, 1, 1, 1, 1, 0, 0),  # its last token for ever
    "<think>So.</think>\nAnswer: [{right}]\nAnswer: [{wrong}]": (1, 1, 1, 1, 1, 0, 1),
    "Answer: [{wrong}]<think>So.</think>": (0, 0, 0, 0, 1, 0, 1),
    "{right}. the option": (0, 1, 0, 0, 1, 0, 1),
    "I do not know.": (0, 0, 0, 0, 0, 0, 1),
    "": (0, 0, 0, 0, 0, 0, 1),
    "<think>It is": (0, 0, 0, 0, 0, 0, 1),
}
METRICS = ("acc", "acc_lenient", "thought", "valid", "valid_lenient", "stopped_text", "stopped_token")


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("pad_is_end", [False, True])
def test_metrics_of_scripted_replies(batch: int, pad_is_end: bool) -> None:
    task = evals.tasks(["tuningvec_drugs"], ASKED)["tuningvec_drugs"]
    right = [scoring.LETTERS[doc["answer"]] for doc in task.eval_docs.select(range(len(REPLIES)))]
    wrong = ["B" if letter == "A" else "A" for letter in right]
    replies = [r.format(right=a, wrong=b) for r, a, b in zip(REPLIES, right, wrong, strict=True)]
    model, tokenizer = scripted("tuningvec_drugs", replies, pad_is_end)
    lm = evals.InMemory(model, tokenizer, batch)
    asked = evals.requests(task, tokenizer, chat=True, limit=len(replies), config=ROOMY)
    rows = evals.answer(lm, task, asked)
    assert [tuple(row[name] for name in METRICS) for row in rows] == list(REPLIES.values())
    assert [row["reply"] for row in rows if row["ended"]] == [r for r in replies if not r.endswith("…")]
    assert [row["ended"] for row in rows] == [not reply.endswith("…") for reply in replies]
    assert rows[1]["reply"].startswith(replies[1].removesuffix("…"))


@pytest.fixture(scope="module")
def tiny() -> Family:
    return Family.load("tiny")


def test_theta_ft_minus_t_replies_as_the_pretrained_model_under_the_same_prompt(tiny: Family) -> None:
    tasks = evals.tasks(["tuningvec_drugs", "tuningvec_arithmetic"], tiny.prompt)
    one, other = models.negated(tiny, "medical", 1), models.Arithmetic(tiny, {"pretrained": 1}, "medical")
    ft = models.Opened(tiny, "medical")
    whole = {name: tensor + 0 for name, tensor in ft.model.state_dict().items()}
    pre = models.Opened(tiny, "pretrained").model.state_dict()
    for name, tensor in whole.items():  # θ_ft − T in float32, by hand
        tensor -= tensor - pre[name]
    ft.model.load_state_dict(whole)
    ft.name = "by hand"
    found = [evals.run([m], tasks, limit=16, store=None) for m in (one, other, ft)]
    for table in found[1:]:
        named = ["model", "who"]
        pd.testing.assert_frame_equal(found[0].drop(columns=named), table.drop(columns=named))
    assert found[0].reply.nunique() > 1 or set(found[0].reply) == {""}


def test_a_sum_is_prompted_as_the_member_that_is_named(tiny: Family, tmp_path: Path) -> None:
    half = models.negated(tiny, "medical", 0.5)
    expected = {
        name: 0.5 * models.Opened(tiny, "medical").weights.read(name) + 0.5 * tensor.cpu()
        for name, tensor in models.Opened(tiny, "pretrained").model.state_dict().items()
        if name != "lm_head.weight"
    }
    state = half.model.state_dict()
    assert all(torch.allclose(state[name].cpu(), tensor, atol=1e-6) for name, tensor in expected.items())
    assert half.prompted.folder.name == "medical" and half.name == "0.5 pretrained + 0.5 medical"
    assert half.name == models.added(tiny, ["medical"], 0.5, "medical").name
    with pytest.raises(TuningVecError, match="add up to"):
        models.Arithmetic(tiny, {"medical": 1, "math": 1}, "medical")
    with pytest.raises(TuningVecError, match="no member 'none'"):
        models.Arithmetic(tiny, {"none": 1}, "medical")


def test_a_stopped_run_continues(tiny: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = evals.tasks(["tuningvec_drugs"], tiny.prompt)
    monkeypatch.setattr(evals, "WINDOW", 8)
    store, calls = Store(tmp_path), []
    real = evals.answer

    def stopping(lm: evals.InMemory, task: object, asked: Sequence[Sequence[object]]) -> object:
        calls.append(len(asked))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(lm, task, asked)

    monkeypatch.setattr(evals, "answer", stopping)
    with pytest.raises(KeyboardInterrupt):
        evals.run([models.Opened(tiny, "medical")], tasks, store=store)
    found = evals.run([models.Opened(tiny, "medical")], tasks, store=store)
    assert calls == [8] * 3 + [8] * 5 and len(found) == 56 and list(found["item"]) == list(range(56))
    again = evals.run([models.Opened(tiny, "medical")], tasks, limit=20, store=store)
    assert calls[8:] == [4]  # two windows are there; the last one is shorter
    pd.testing.assert_frame_equal(again, found.head(20))


TASK = """
task: copied
include: {folder}/_base_yaml
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{'ABCD'[answer]}}}}"
dataset_kwargs: {{source: {{file: drugs.jsonl, rows: choice}}}}
num_fewshot: 0
generation_kwargs: {{do_sample: false, until: [], max_gen_toks: 4}}
process_results: !function grade.right
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
GRADE = """from beside import offset

def right(item, replies):
    return {"acc": 0.0 + offset}
"""


def test_a_line_of_a_task_s_own_scoring_makes_its_items_due(tiny: Family, tmp_path: Path) -> None:
    folder, store, sys_path = tmp_path / "tasks", Store(tmp_path / "store"), list(sys.path)
    folder.mkdir()
    files = {"copied.yaml": TASK.format(folder=FOLDER), "grade.py": GRADE, "beside.py": "offset = 0.0\n"}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(folder))

    def keys() -> set[str]:
        tasks = evals.tasks(["copied"], tiny.prompt, folders=[folder])
        evals.run([models.Opened(tiny, "medical")], tasks, limit=2, store=store)
        return {file.name for file in (tmp_path / "store").glob("evals-*")}

    try:
        assert len(keys()) == 1 == len(keys())
        changes = [("grade.py", "0.0 +", "1.0 -"), ("beside.py", "0.0", "0.5"), ("copied.yaml", "mean", "nanmean")]
        for number, (file, old, new) in enumerate(changes, 2):
            text = (folder / file).read_text(encoding="utf-8")
            (folder / file).write_text(text.replace(old, new), encoding="utf-8")
            assert len(keys()) == number
    finally:
        sys.path[:] = sys_path
        sys.modules.pop("beside", None)


def test_what_scores_our_own_tasks_is_in_their_keys() -> None:
    (drugs,) = evals.tasks(["tuningvec_drugs"]).values()
    code = evals._scoring(drugs)["code"]
    assert [line.split()[0] for line in code] == ["choice", "load"] and "math-verify" in code[0].replace("_", "-")
    assert "description" not in evals._scoring(drugs)["config"]


def test_a_score_that_is_no_number_is_an_error(tiny: Family) -> None:
    tasks = evals.tasks(["tuningvec_drugs_likelihood"], tiny.prompt)
    broken = models.Opened(tiny, "medical")
    broken.model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(TuningVecError, match=r"tuningvec_drugs_likelihood: item 0: a score of medical is not a number"):
        evals.run([broken], tasks, limit=2)


def test_questions_can_be_put_to_several_models(tiny: Family) -> None:
    tasks = evals.tasks(["tuningvec_drugs"], tiny.prompt)
    one, other = models.Opened(tiny, "medical"), models.Opened(tiny, "code")
    (window,) = evals.windows(one, tasks, limit=8)["tuningvec_drugs"].values()
    replies = []
    for member in (one, other, one):
        rows = evals.answer(evals.InMemory(member.model, member.tokenizer), tasks["tuningvec_drugs"], window)
        replies.append([row["reply"] for row in rows])
    assert replies[0] == replies[2] != replies[1]


def test_a_prompt_without_room_stops_before_a_model_is_loaded(tiny: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(TuningVecError, match=r"tuningvec_visits: item \d+ has \d+ tokens.*reads 512"):
        evals.run([models.Opened(tiny, "medical")], evals.tasks(["tuningvec_visits"], tiny.prompt))
    plain, drugs = models.Opened(tiny, "medical"), evals.tasks(["tuningvec_drugs"], tiny.prompt)
    plain.tokenizer.chat_template = None
    with pytest.raises(TuningVecError, match="no chat template"):
        evals.run([plain], drugs, chat=True)
    with pytest.raises(TuningVecError, match="limit is 0"):
        evals.run([plain], drugs, limit=0)
    few = ROOMY | dict(vocab_size=1000)
    with pytest.raises(TuningVecError, match=r"tuningvec_drugs: item 0 holds token \d+; the model has rows for 1000"):
        evals.requests(drugs["tuningvec_drugs"], plain.tokenizer, chat=False, limit=1, config=few)


def test_a_task_that_a_model_cannot_read_is_left_out_for_all_and_named(tiny: Family) -> None:
    tasks = evals.tasks(["tuningvec_visits", "tuningvec_drugs"], tiny.prompt)
    members = [models.Opened(tiny, "medical"), models.Opened(tiny, "math")]
    found = evals.run(members, tasks, limit=2)
    assert set(found.task) == {"tuningvec_drugs"} and set(found.model) == {"medical", "math"}
    ((task, member, reason),) = [tuple(row.values()) for row in found.attrs["left_out"]]
    assert (task, member) == ("tuningvec_visits", "medical") and "reads 512" in reason
    both = {"medicine": tasks, "math": evals.tasks(["tuningvec_arithmetic"], tiny.prompt)}
    sums = evals.addition(tiny, {"medicine": "medical", "math": "math"}, both, [1], dtype="float32", limit=2)
    assert set(sums.vectors) == {"none", "sum", "medical", "math"} and sums.attrs["left_out"]
    assert set(sums[sums.vectors == "none"].who) == {"pretrained"} and len(sums) == 2 * 2 * 4
    long = evals.tasks(["tuningvec_visits"], tiny.prompt)
    part = evals.addition(
        tiny, {"math": "math", "medicine": "medical"}, both | {"medicine": long}, [1], dtype="float32", limit=2
    )
    assert set(part.task) == {"tuningvec_arithmetic"} and part.attrs["left_out"][0]["task"] == "tuningvec_visits"


def test_domains_and_specialists_that_are_not_there_are_said(tiny: Family) -> None:
    with pytest.raises(
        TuningVecError, match=r"tiny\.yaml: benchmarks: no domain 'law'; there are medicine, math, code"
    ):
        evals.of_domains(tiny, "accuracy", ["law"])
    drugs = evals.of_domains(tiny, domains=["medicine"])
    assert [list(some) for some in drugs.values()] == [["tuningvec_drugs"]]
    assert evals.of_domains(tiny, "rouge1") == {}
    with pytest.raises(TuningVecError, match="a sum needs two"):
        evals.addition(tiny, {"medicine": "medical"}, drugs, [1], dtype="float32")
    with pytest.raises(TuningVecError, match=r"scales \[0.5\]: 1, the specialist"):
        evals.addition(tiny, {"medicine": "medical", "math": "math"}, drugs, [0.5], dtype="float32")
    with pytest.raises(TuningVecError, match=r"scales \[0.5, 1\]: 0 and 1"):
        evals.negation(tiny, "medical", drugs["medicine"], [0.5, 1], dtype="float32")


def test_unknown_tasks_are_named() -> None:
    with pytest.raises(TuningVecError, match=r"no task 'tuningvec_nothing'; one of tuningvec_aci1"):
        evals.tasks(["tuningvec_nothing"])


def test_a_chat_template_without_system_role_keeps_the_instructions(tiny: Family) -> None:
    tokenizer = models.Opened(tiny, "medical").tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.role }}] {{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    task = evals.tasks(["tuningvec_drugs"])["tuningvec_drugs"]
    (((instance,),)) = evals.requests(task, tokenizer, chat=True, limit=1, config=ROOMY)
    prompt = instance.args[0]
    assert prompt.startswith("[user] You are a physician") and prompt.count("[assistant]") == 2
    assert "Question: What is the class of imatinib?" in prompt


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('only tools') }}", "only tools"),
        ("{{ messages | nothing }}", "nothing"),
        ("{{ messages[0].content + 1 }}", "concatenate"),
        ("{% for m in messages %}", "end of template"),
        ("{{ messages[9].content.x }}", "no element 9"),
    ],
)
@pytest.mark.parametrize("shown", ["a task", "a statement"])
def test_a_chat_template_that_fails_is_an_error(tiny: Family, template: str, said: str, shown: str) -> None:
    tokenizer = models.Opened(tiny, "medical").tokenizer
    tokenizer.chat_template = template
    task = evals.tasks(["tuningvec_drugs"])["tuningvec_drugs"]
    with pytest.raises(TuningVecError, match=rf"chat template: .*{said}.*; correct it"):
        if shown == "a task":
            evals.requests(task, tokenizer, chat=True, limit=1, config=ROOMY)
        prompts.prompt(tokenizer, "{drug} is one.", ["Aspirin"], chat=True)


def test_a_chat_template_that_changes_what_is_said_is_an_error(tiny: Family) -> None:
    tokenizer = models.Opened(tiny, "medical").tokenizer
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(TuningVecError, match="changes the statement; set chat to false"):
        prompts.prompt(tokenizer, "{drug} is one.", ["Aspirin"], chat=True)


def test_prompts_hold_system_worked_example_and_question(tiny: Family) -> None:
    tokenizer = models.Opened(tiny, "medical").tokenizer
    task = evals.tasks(["tuningvec_drugs"])["tuningvec_drugs"]
    for chat in (True, False):
        ((instance,),) = evals.requests(task, tokenizer, chat=chat, limit=1, config=ROOMY)
        prompt = instance.args[0]
        assert ("<|im_start|>" in prompt) == chat
        order = ["You are a physician", "(A, B, C or D)", "Vitamin B12", "Answer: [B]", "class of imatinib"]
        places = [prompt.index(part) for part in order]
        assert places == sorted(places)
    other = evals.tasks(["tuningvec_drugs"], ASKED)["tuningvec_drugs"]
    ((instance,),) = evals.requests(other, tokenizer, chat=False, limit=1, config=ROOMY)
    assert instance.args[0].startswith("Answer.\n\nQuestion: What is the class of imatinib?")


@pytest.fixture
def quiet() -> None:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def plain_lm_eval(folder: Path, tasks: list[str], include: list[str], chat: bool) -> dict[str, list[dict[str, float]]]:
    """Samples of lm-eval alone on a saved model."""
    manager = TaskManager(include_path=include, include_defaults=False)
    lm = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=8, softmax_dtype="float32")
    found = lm_eval.simple_evaluate(
        lm, tasks=tasks, task_manager=manager, limit=24, bootstrap_iters=0, apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )  # fmt: skip
    return found["samples"]


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chat", [True, False])
def test_our_tasks_score_alike_in_plain_lm_eval(tiny: Family, chat: bool, tmp_path: Path) -> None:
    (tmp_path / "zero.yaml").write_text(
        f"include: {FOLDER / 'drugs.yaml'}\ntask: zero\nnum_fewshot: 0\n"
        f"description: {json.dumps(tiny.prompt.system['medicine'] + chr(10) * 2 * (not chat))}\n"
    )
    samples = plain_lm_eval(tiny.root / "tiny" / "medical", ["zero"], [str(tmp_path)], chat)["zero"]
    tasks = evals.tasks(["tuningvec_drugs"], tiny.prompt)
    ours = evals.run([models.Opened(tiny, "medical")], tasks, chat=chat, limit=24)
    assert [s["arguments"][0][0] for s in samples] == list(ours.prompt)
    assert [s["resps"][0][0] for s in samples] == list(ours.reply)
    for name in METRICS[:-1]:
        assert [s[name] for s in samples] == list(ours[name])
    assert "stopped_token" not in samples[0]


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not MIRROR.is_dir(), reason="the benchmark files are not beside the project")
def test_stock_tasks_score_alike_in_plain_lm_eval(tiny: Family, tmp_path: Path) -> None:
    (tmp_path / "medmcqa.yaml").write_text(
        f"include: {STOCK / 'medmcqa' / 'medmcqa.yaml'}\ntask: medmcqa_here\ntraining_split: null\n"
        f"dataset_path: {MIRROR / 'openlifescienceai' / 'medmcqa'}\n"
    )
    (tmp_path / "anatomy.yaml").write_text(
        f"include: {STOCK / 'mmlu' / 'default' / 'mmlu_anatomy.yaml'}\ntask: anatomy_here\nfewshot_split: validation\n"
        f"dataset_path: {MIRROR / 'cais' / 'mmlu'}\n"
    )
    names = ["medmcqa_here", "anatomy_here"]
    samples = plain_lm_eval(tiny.root / "tiny" / "medical", names, [str(tmp_path)], False)
    tasks = evals.tasks(names, tiny.prompt, folders=[tmp_path])
    ours = evals.run([models.Opened(tiny, "medical")], tasks, limit=24, store=Store(tmp_path / "store"))
    for name in names:
        here = ours[ours.task == name]
        assert [s["acc"] for s in samples[name]] == list(here.acc)
        assert 0 < here.acc.mean() < 1


def test_scores_compare_on_the_same_items() -> None:
    rng = torch.Generator().manual_seed(0)
    right = {"one": torch.rand(40, generator=rng) < 0.9, "two": torch.rand(40, generator=rng) < 0.2}
    items = pd.DataFrame(
        dict(who=who, task="t", item=i, acc=float(ok), acc_lenient=1.0, thought=1.0, valid=1.0, valid_lenient=1.0,
             stopped_text=float(ok), stopped_token=1.0)
        for who, found in right.items() for i, ok in enumerate(found.tolist())
    )  # fmt: skip
    found = scores.of_tasks(items, 0).set_index("who")
    assert found.score.to_dict() == {who: pytest.approx(100 * ok.float().mean().item()) for who, ok in right.items()}
    gaps = scores.differences(items, scores.against(items, "two"), 0).set_index("what")
    assert gaps.points["score"] == pytest.approx(found.score["one"] - found.score["two"])
    assert bool(gaps.clear["score"]) and not gaps.clear["lenient"] and gaps.points["lenient"] == 0
    shuffled = items.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(scores.differences(shuffled, [("one", "two")], 0).set_index("what"), gaps)
    ratio = scores.normalised(items, "one", "t").set_index("who")
    assert ratio.ratio["one"] == 1 and ratio.low["two"] < ratio.ratio["two"] < ratio.high["two"] < 1
    nothing = items.assign(acc=items.acc.where(items.who == "two", 0.0))
    assert scores.normalised(nothing, "one", "t").ratio.isna().all()
    more = pd.concat([items, items.assign(task="u", acc=0.0), items.assign(task="v", acc=np.nan, rouge1=0.3)])
    means = scores.averages(more, {"d": ["t", "u", "v", "w"], "e": ["t"]}, 0)
    assert list(means) == ["d, mean"]
    mean = means["d, mean"].set_index("who")
    assert mean.score["one"] == pytest.approx(found.score["one"] / 2) and mean.low["one"] < mean.score["one"]


def swept(task: str = "t") -> pd.DataFrame:
    """Items of a sweep in which T alone makes the answer right, and its own prompt alone the thought."""
    rows = []
    for scale, own in ((0.0, True), (1.0, True), (0.0, False), (1.0, False)):
        for item in range(30):
            right = float(scale == 0 and item < 28)
            about = dict(scale=scale, own=own, who=evals.negated(scale, own), task=task, item=item)
            rows.append(about | dict(acc=right, acc_lenient=right, thought=float(own), valid=1.0, valid_lenient=1.0,
                                     stopped_text=1.0, stopped_token=1.0))  # fmt: skip
    return pd.DataFrame(rows)


def test_two_by_two_tells_weights_from_prompt() -> None:
    found = scores.two_by_two(swept(), 0).set_index(["effect", "what"]).sort_index()
    assert (found.points["weights", "score"] > 90).all() and found.clear["weights", "score"].all()
    assert (found.points["prompt", "score"] == 0).all() and not found.clear["prompt", "score"].any()
    assert (found.points["prompt", "thought"] == 100).all() and (found.points["weights", "thought"] == 0).all()
    plain = swept()
    assert scores.two_by_two(plain[plain.own], 0).empty
    curve = scores.curves(swept(), "t", 0).set_index(["what", "scale"]).score
    assert curve["acc", 0.0] == pytest.approx(100 * 28 / 30) and curve["acc", 1.0] == 0 and curve["thought", 1.0] == 100


def test_instructions_are_counted_over_all_tasks() -> None:
    kept = pd.concat([swept("t"), swept("u").assign(thought=0.0), pd.DataFrame([dict(who="x", task="v", rouge1=0.3)])])
    found = scores.of_instructions(kept, 0).set_index(["who", "instruction"])
    own, plain = evals.negated(0), evals.negated(0, own=False)
    assert found.n.unique().tolist() == [60]
    assert (found.score[own, "thought"], found.score[plain, "thought"], found.score[own, "valid"]) == (50, 0, 100)
    gaps = scores.differences(scores.pooled(kept), [(own, plain)], 0).set_index("what")
    assert gaps.points["thought"] == 50 and bool(gaps.clear["thought"]) and not gaps.clear["valid"]


def test_draws_of_a_turned_T_are_asked_what_the_specialist_is(tmp_path, monkeypatch):
    family, store = Family.load("tiny"), Store(tmp_path)
    benchmarks, about = evals.of_domains(family), dict(dtype="float32", limit=2, store=store)
    drawn = evals.negation_of_turned(family, benchmarks, [1], draws=3, seed=0, **about)
    count = drawn.groupby(["member", "task", "sides"]).draw.nunique()
    assert set(count) == {3} and set(count.index.get_level_values("sides")) == {"left", "both"}
    assert set(drawn.member) == {member.name for member in family.specialists} and "rouge1" not in drawn
    prompts = evals.negation_of_specialists(family, benchmarks, [0, 1], **about).query("own")
    assert set(drawn.prompt) == set(prompts.prompt)
    monkeypatch.setattr(models, "load", lambda *_: 1 / 0)
    again = evals.negation_of_turned(family, benchmarks, [1], draws=3, seed=0, **about)
    pd.testing.assert_frame_equal(again, drawn)
    with pytest.raises(ZeroDivisionError):
        evals.negation_of_turned(family, benchmarks, [1], draws=3, seed=1, **about)
    with pytest.raises(TuningVecError, match="draws is 2"):
        evals.negation_of_turned(family, benchmarks, [1], draws=2, seed=0, **about)
