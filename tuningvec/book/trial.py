"""What a family is, for the formulas of `costs`, and how fast this machine does what they count: a trial of seconds."""

import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path

import joblib
import torch
from lm_eval.api.task import Task
from torch import Tensor
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tuningvec.book.costs import ITEM, RUN, Case, Exam, Shape, Work, attributed, decomposed, patched, qr
from tuningvec.errors import TuningVecError
from tuningvec.family import members
from tuningvec.family.spec import Adapter, Family, Member, TextFiles
from tuningvec.measures import evals, models, neurons, patching
from tuningvec.measures.corpus import Tokens
from tuningvec.measures.decoding import greedy
from tuningvec.measures.prompts import Aligned, Prompt, Prompts
from tuningvec.measures.scores import LIKELIHOOD
from tuningvec.weights import engine
from tuningvec.weights.checkpoint import Checkpoint, LowRank
from tuningvec.weights.delta import Combination, inner_products
from tuningvec.weights.subspace import decompose

LETTERS = 3.6  # of a token of English
LAYERS, LEAST = 4, 512  # layers of the model that is tried, and tokens that it has at least
PARAMETERS = 100_000_000  # of them at most, if one layer has no more
LARGEST = 1024  # side of the matrices that are multiplied and decomposed
ROWS, PROMPT, TOKENS = 32, 64, 12  # prompts and their tokens; tokens of the replies that are written
PAIRS, STEPS = 4, 4  # of prompts that are patched, and of integrated attribution
REPEATS, DRAWN = 3, 1.1  # of a page's imports alone it takes with its kernel, tables and figures
IMPORTS = "import tuningvec.measures.ablation, tuningvec.measures.patching, tuningvec.page.plots, tuningvec.page.tables"


def case_of(family: Family, likelihood: Sequence[str] = ()) -> tuple[Case, list[str]]:
    """What the costs of a family's pages follow from, and the names of tasks whose items are not at hand.

    `likelihood` are tasks that are asked beside the family's. Raises TuningVecError where the pretrained member cannot
    be opened.
    """
    exams, unknown = _exams(family, likelihood)
    given = Prompts.read(family.root / family.patching)
    lengths = [len(given.template) + sum(map(len, pair.corrupt)) for pair in given.pairs]
    forms = {member.controls for member in family.controls if member.keeps == "form"}
    studied = [member for member in family.studied if member is not family.pretrained]
    case = Case(
        Shape.of(members.checkpoint(family).config),
        [_rank(family, member) for member in studied],
        [_rank(family, member) for member in family.controls],
        [_tokens(family, name) for name in family.corpora],
        exams,
        [member.domain for member in family.specialists],
        len(forms),
        1 + sum(lengths) / len(lengths) / LETTERS,
        len({pair.kind for pair in given.pairs}),
    )
    return case, unknown


def _rank(family: Family, member: Member) -> int | None:
    return LowRank(family.root / member.source.path).rank if isinstance(member.source, Adapter) else None


def _tokens(family: Family, name: str) -> int:
    """A corpus's budget, or about as many as its files hold."""
    corpus = family.corpora[name]
    if not isinstance(corpus, TextFiles):
        return corpus.tokens
    size = sum(file.stat().st_size for file in corpus.files(family.root))
    return int(min(corpus.tokens, size / LETTERS))


def _exams(family: Family, likelihood: Sequence[str]) -> tuple[dict[str, list[Exam]], list[str]]:
    """The tasks of each domain, with those answered by likelihood; the names of those whose items are not at hand."""
    names = {domain: list(some) for domain, some in family.benchmarks.items()}
    for name in likelihood:
        task = name.removesuffix(LIKELIHOOD)
        names.setdefault(next((domain for domain, some in names.items() if task in some), name), []).append(name)
    found: dict[str, list[Exam]] = {domain: [] for domain in names}
    unknown = []
    for domain, name in ((domain, name) for domain, some in names.items() for name in some):
        try:
            found[domain] += map(_exam, evals.tasks([name], family.prompt).values())
        except TuningVecError:
            unknown.append(name)
    return found, unknown


def _exam(task: Task) -> Exam:
    config, items = task.config, list(task.eval_docs)
    own = sum(len(task.doc_to_text(item)) for item in items) / len(items) / LETTERS
    if config.output_type != "generate_until":
        options = [option for item in items for option in task.doc_to_choice(item)]
        return Exam(len(items), own + sum(map(len, options)) / len(items) / LETTERS, 0, 0)
    shared = len(config.description or "") / LETTERS + own * config.num_fewshot
    text = config.metric_list[0]["metric"] == "rouge1"
    return Exam(len(items), own, shared, config.generation_kwargs["max_gen_toks"], text, config.unsafe_code)


def rates(family: Family, case: Case, dtype: str) -> Work:
    """Seconds that a unit of each kind of work takes here, by a model of the family's widths with few layers.

    On as many threads as the pages run on.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or joblib.cpu_count(only_physical_cores=True)))
    try:
        with tempfile.TemporaryDirectory() as folder:
            window = next(iter(family.corpora.values())).window
            return _Trial(members.checkpoint(family), case, dtype, window, Path(folder)).rates()
    finally:
        torch.set_num_threads(threads)


class _Trial:
    """A model of the widths of `like`, with few layers and as small a part of its vocabulary, in a folder twice."""

    def __init__(self, like: Checkpoint, case: Case, dtype: str, window: int, folder: Path):
        self.dtype, self.case, self.window = dtype, case, window
        layers = max(1, min(LAYERS, case.shape.layers, PARAMETERS // case.shape.block))
        vocabulary = max(LEAST, case.shape.vocabulary * layers // case.shape.layers)
        self.shape = replace(case.shape, layers=layers, vocabulary=min(vocabulary, case.shape.vocabulary))
        config = AutoConfig.from_pretrained(like.folder, **models.OWN_CODE)
        config.num_hidden_layers, config.vocab_size = layers, self.shape.vocabulary
        config.pad_token_id = config.bos_token_id = config.eos_token_id = None
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
        made = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **models.OWN_CODE)
        with redirect_stderr(StringIO()):
            for name in "ab":
                made.save_pretrained(folder / name)
        self.a, self.b = (Checkpoint(folder / name) for name in "ab")

    def rates(self) -> Work:
        """Seconds a unit; what the trials themselves draw of their progress is not shown."""
        found = {}
        for name, trial in tqdm(self._trials().items(), desc="trial", leave=False, file=sys.stderr):
            with redirect_stderr(StringIO()):
                found[name] = trial()
        return Work(**found)

    def _trials(self) -> dict[str, Callable[[], float]]:
        return dict(
            pages=self._page, models=lambda: _seconds(gc.collect), loaded=self._loaded, profiled=self._profiled,
            read=self._read, decoded=self._decoded, traced=self._traced, patched=self._patched,
            streamed=self._streamed, products=self._products, eigen=self._eigen, turned=self._turned,
            items=lambda: ITEM, runs=lambda: RUN,
        )  # fmt: skip

    def _page(self) -> float:
        least = min(_seconds(lambda: subprocess.run([sys.executable, "-c", IMPORTS], check=True), 1) for _ in range(2))
        return DRAWN * least

    def _model(self, dtype: str) -> PreTrainedModel:
        return models.load(Combination({self.a: 0.5, self.b: 0.5}), self.a, dtype)

    def _loaded(self) -> float:
        return _seconds(lambda: self._model(self.dtype)) / self.shape.parameters

    def _ids(self, count: int) -> Tensor:
        return torch.randint(3, self.shape.vocabulary, (count,), generator=torch.Generator().manual_seed(0))

    def _profiled(self) -> float:
        rows, model = 2 * neurons.SHARDS, self._model(self.dtype)
        lengths = torch.full((rows,), self.window, dtype=torch.int32)
        tokens = Tokens(self._ids(rows * self.window).int(), lengths, self.window, True, rows * self.window)
        return _seconds(lambda: neurons.activation_profile(model, tokens)) / self.shape.forward(tokens.count)

    @torch.no_grad()
    def _read(self) -> float:
        model = self._model(self.dtype)
        ids = self._ids(ROWS * PROMPT).view(ROWS, PROMPT).to(model.device)
        return _seconds(lambda: model(ids, use_cache=False)) / self.shape.forward(ids.numel(), head=True)

    def _decoded(self) -> float:
        model, prompts = self._model(self.dtype), self._ids(ROWS * 8).view(ROWS, 8).tolist()
        return _seconds(lambda: greedy(model, prompts, TOKENS, set())) / (TOKENS * self.shape.parameters)

    def _aligned(self) -> Aligned:
        length = int(self.case.statement)
        prompt = Prompt(self._ids(length).tolist(), [""] * length)
        return Aligned(prompt, prompt, torch.arange(length))

    def _traced(self) -> float:
        model, pair = self._model("float32"), self._aligned()

        def several() -> None:
            patcher = patching.Patcher(model, (1, 2))  # which takes its time with each model
            for _ in range(PAIRS):
                patcher.attribution(pair, STEPS)

        return _seconds(several) / (PAIRS * attributed(self.shape, len(pair.places), STEPS))

    def _patched(self) -> float:
        patcher, pair = patching.Patcher(self._model("float32"), (1, 2)), self._aligned()
        return _seconds(lambda: patcher.exact(pair), 1) / patched(self.shape, len(pair.places), self.shape.layers)

    def _streamed(self) -> float:
        vectors = {"a": Combination({self.a: 1}), "b": Combination({self.b: 1})}
        return _seconds(lambda: inner_products(vectors, self.a)) / (2 * self.shape.parameters)

    def _products(self) -> float:
        A = torch.ones(LARGEST, LARGEST, device=engine.device())
        return _seconds(lambda: A @ A) / (2 * LARGEST**3)

    def _eigen(self) -> float:
        sides = [tuple(min(side, LARGEST) for side in shape) for shape in self.shape.matrices]
        generator = torch.Generator().manual_seed(0)
        matrices = [torch.randn(shape, generator=generator).to(engine.device()) for shape in sides]
        return _seconds(lambda: [decompose(W) for W in matrices]) / sum(map(decomposed, sides))

    def _turned(self) -> float:
        M = torch.randn(LARGEST, LARGEST // 2, generator=torch.Generator().manual_seed(0)).to(engine.device())
        return _seconds(lambda: torch.linalg.qr(M)) / (2 * qr(*M.shape))


def _seconds(work: Callable[[], object], times: int = REPEATS) -> float:
    """The least of so many times, after one that warms up where there are several."""
    taken = []
    for _ in range(times + (times > 1)):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)
