"""What the pages of a family take, by formulas in layers, widths, tokens and items: operations, bytes, memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from tuningvec.weights.components import MATRICES, matrix_shapes
from tuningvec.weights.nulls import NEURONS
from tuningvec.weights.subspace import FLOAT64_UP_TO

WINDOW, PARTS = 32, 16  # of `evals` and `aim`, which take long to import
WORD = 1.3  # tokens
RANK = 0.8  # k of the paper's ε in shares of the smaller side, for what is counted before it is known
MODEL = 0.3  # seconds to let a model go
LONGEST = 0.75  # of the tokens that a reply may have
PAGE = 20  # seconds to start a page and draw its figures
ITEM, RUN = 0.004, 0.075  # seconds to ask and score an item, and to run a function
REPLY, REPLIES = 40, 32  # tokens of a held-out reply, and replies of a domain that nothing is chosen on
IDENTITIES, IDENTITIES_THIN = 8, 24  # times that a T, and one of low rank, is built while its identities are tried
COURSE = 200_000  # tokens that a training of a recipe here reads, there and back, those that it rehearses too
THIN = 64  # rank from which on a product is bound by its operations: below it U is read all the same
BASE = 0.9e9  # bytes of a kernel with torch, transformers and lm-eval before it does anything

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder: layers, (d_out, d_in) of each of MATRICES, keys and values of a token, d, vocabulary."""

    layers: int
    matrices: tuple[tuple[int, int], ...]
    width: int
    vocabulary: int
    tied: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """By a model's `config.json`; raises TuningVecError as `components.matrix_shapes` does."""
        matrices = tuple(matrix_shapes(config)[kind] for kind in MATRICES)
        sizes = (int(config[name]) for name in ("num_hidden_layers", "hidden_size", "vocab_size"))
        layers, width, vocabulary = sizes
        return cls(layers, matrices, width, vocabulary, bool(config.get("tie_word_embeddings")))

    @property
    def whole(self) -> list[tuple[int, int]]:
        """Embedding and head, d_out × d_in."""
        return [(self.vocabulary, self.width)] * (1 if self.tied else 2)

    @property
    def block(self) -> int:
        """Parameters of a layer."""
        return sum(d_out * d_in for d_out, d_in in self.matrices)

    @property
    def parameters(self) -> int:
        """Of matrices; norms and biases are few."""
        return self.layers * self.block + sum(d_out * d_in for d_out, d_in in self.whole)

    @property
    def cached(self) -> int:
        """Keys and values that a token leaves in the cache."""
        return 2 * self.layers * self.matrices[MATRICES.index("W_K")][0]

    def forward(self, tokens: float, head: bool = False) -> float:
        """Operations of a forward pass: 2 a parameter and token; attention over short prompts is left out."""
        return 2 * tokens * (self.layers * self.block + head * self.vocabulary * self.width)


@dataclass(frozen=True)
class Work:
    """How much is done, by what limits it; sums and multiples of it are work too."""

    pages: float = 0  # that are started: a kernel, imports, figures
    models: float = 0  # that are opened, and let go when they were measured
    loaded: float = 0  # parameters of these that are put together in memory
    profiled: float = 0  # operations of forward passes whose activations are captured
    read: float = 0  # operations of those over prompts and texts
    traced: float = 0  # operations of attribution, there and back
    patched: float = 0  # operations of exact patching
    decoded: float = 0  # parameters that are passed over while replies are written, once for all rows of a batch
    streamed: float = 0  # parameters that are read from files and combined in float32
    products: float = 0  # operations of matrix products in float32
    eigen: float = 0  # operations of decompositions of the pretrained matrices
    turned: float = 0  # operations of drawing turned matrices
    items: float = 0  # that are put into words and scored
    runs: float = 0  # functions of replies that are run

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __rmul__(self, times: float) -> "Work":
        return Work(*(times * x for x in astuple(self)))

    def seconds(self, rates: "Work") -> float:
        """The time that it takes where a unit of each takes so many seconds."""
        return sum(a * b for a, b in zip(astuple(self), astuple(rates), strict=True))


@dataclass(frozen=True)
class Exam:
    """A task: items, tokens that an item has of its own and that all share, and tokens of a reply at most.

    Without a reply its options are read. `text` tasks are scored by their words, those of `code` by running it.
    """

    items: int
    own: float
    shared: float
    reply: int
    text: bool = False
    code: bool = False


@dataclass(frozen=True)
class Lessons:
    """Trainings on lessons: their ways, and where a page leaves them to its recipe, seeds and steps.

    `tokens` of a step, and of all held-out `replies`, which are `read` so often.
    """

    ways: int = 5
    seeds: int = 3
    steps: int = 20
    tokens: int = 1500
    replies: int = 7000
    read: int = 3


LESSONS = Lessons()


@dataclass(frozen=True)
class Case:
    """What the cost of a family's pages follows from.

    `ranks` and `controls` are those of each T, None for a full one; `corpora` their tokens; `exams` by domain, with
    those answered by likelihood; `domains` those of the specialists, `forms` of which have a control of the form alone;
    `statement` the tokens of a prompt that is patched, of `kinds` kinds.
    """

    shape: Shape
    ranks: Sequence[int | None]
    controls: Sequence[int | None] = ()
    corpora: Sequence[int] = ()
    exams: Mapping[str, Sequence[Exam]] = field(default_factory=dict)
    domains: Sequence[str] = ()
    forms: int = 0
    statement: float = 16
    kinds: int = 4

    @property
    def every(self) -> list[int | None]:
        return [*self.ranks, *self.controls]


def of_pages(pages: Mapping[str, Parameters], case: Case) -> dict[str, Work]:
    """The work of each page, {stem: its parameters}; what two need is the first one's. Pages without formulas lack."""
    found, done = {}, set()
    for stem, parameters in pages.items():
        formula = next((f for number, f in FORMULAS.items() if stem.startswith(f"{number}_")), None)
        if formula is None:
            continue
        work = Work(pages=1)
        for name, part in formula(case, parameters):
            work += Work() if name in done else part
            done |= {name} if name else set()
        found[stem] = work
    return found


Parts = Iterator[tuple[str, Work]]  # each with a name, by which another page finds it done, or ""


def _families(case: Case, p: Parameters) -> Parts:
    passes = sum(IDENTITIES if rank is None else IDENTITIES_THIN for rank in case.every)
    yield "", Work(streamed=case.shape.parameters * (1 + passes))


def _profiled(case: Case, share: float = 1) -> Work:
    """A model that reads the first corpus, or a part of it."""
    return Work(models=1, loaded=case.shape.parameters, profiled=case.shape.forward(share * case.corpora[0]))


def _texts(case: Case, p: Parameters) -> Work:
    """A model's losses on the documents that are held out."""
    tokens = len(case.corpora) * p["texts"] * p["words"] * WORD
    return Work(read=case.shape.forward(tokens, head=True))


def _turned(case: Case, rank: int | None, sides: int) -> Work:
    """A T that is read and turned on the left, or on both sides."""
    shape, operations = case.shape, 0.0
    if rank is None:
        for d_out, d_in in [*shape.matrices * shape.layers, *shape.whole]:
            for tall, wide in [(d_out, d_in), (d_in, d_out)][:sides]:
                least = min(tall, wide)
                operations += qr(tall, wide) + 2 * qr(tall, least) + 2 * tall * least * wide
    return Work(streamed=2 * shape.parameters, turned=operations)


def qr(rows: int, columns: int) -> float:
    """Operations of a QR decomposition without Q."""
    least = min(rows, columns)
    return 2 * rows * columns * least - 2 / 3 * least**3


def _draws(case: Case, count: int) -> Work:
    """Every T turned so often on the left and on both sides."""
    return count * sum((_turned(case, rank, sides) for rank in case.ranks for sides in (1, 2)), Work())


def _activated(case: Case, p: Parameters) -> Parts:
    yield "profiles", (1 + len(case.ranks)) * _profiled(case)


def _edit(case: Case, p: Parameters) -> Parts:
    yield from _activated(case, p)
    yield "rotated", sum((_turned(case, rank, 1) + _profiled(case, 0.5) for rank in case.ranks), Work())
    each = _profiled(case, 1 / PARTS) + _texts(case, p)
    yield "", _draws(case, p["turns"]) + (1 + len(case.ranks) * (1 + 2 * p["turns"])) * each
    yield "controls", len(case.controls) * _profiled(case)


def _ablation(case: Case, p: Parameters) -> Parts:
    yield from _activated(case, p)
    shares, draws = len(p["shares"]), p["draws"]
    exams = [exam for domain in p["domains"] for exam in case.exams.get(domain, ()) if not exam.text]
    asked = _asked(case, [exam for exam in exams if exam.reply], p["limit"])
    each = Work(models=1, loaded=case.shape.parameters) + (1 + shares + shares * draws) * _texts(case, p)
    yield "", (1 + len(case.ranks)) * (each + (1 + 2 * shares) * asked)
    if case.forms:
        yield "controls", len(case.controls) * _profiled(case)
        kinds = len(case.controls) / case.forms + len(set(case.domains))
        changed = len(p["changed"])
        each = Work(models=1, loaded=case.shape.parameters) + (1 + kinds * changed + changed * draws) * _texts(case, p)
        yield "", case.forms * (each + (1 + (kinds + 1) * changed) * _asked(case, exams, p["exam"]))


def _similarity(case: Case, p: Parameters) -> Parts:
    yield "", Work(streamed=case.shape.parameters * (1 + len(case.ranks)))


def attributed(shape: Shape, tokens: float, steps: int) -> float:
    """Operations of integrated attribution: two runs, and a pass there and back at each step."""
    return shape.forward(tokens * (2 + 2 * steps))


def patched(shape: Shape, tokens: float, layers: int) -> float:
    """Operations of exact patching in so many layers, even over depth: of three sites, with a row for each token."""
    return shape.forward(tokens + tokens**2 * (2 + 1.5 * layers))


def _patching(case: Case, p: Parameters) -> Parts:
    shape, tokens, pairs = case.shape, case.statement, p["pairs"]
    each = Work(traced=attributed(shape, tokens, p["steps"]))
    layers = min(p["layers"], shape.layers)
    first = Work(traced=attributed(shape, tokens, 1), patched=patched(shape, tokens, layers))
    yield "", (1 + len(case.ranks)) * (Work(models=1, loaded=shape.parameters) + case.kinds * (pairs * each + first))
    model = Work(models=1, loaded=shape.parameters) + pairs * each
    yield "", _draws(case, p["draws"]) + 2 * len(case.ranks) * p["draws"] * model


def _asked(case: Case, exams: Sequence[Exam], limit: int | None) -> Work:
    """A model's replies to the first items of each, in windows whose longest reply takes LONGEST of what it may."""
    found = Work()
    for exam in exams:
        items = exam.items if limit is None else min(exam.items, limit)
        windows = -(-items // WINDOW)
        read = case.shape.forward(items * exam.own + windows * exam.shared, head=not exam.reply)
        decoded = windows * LONGEST * exam.reply * case.shape.parameters
        found += Work(read=read, decoded=decoded, items=items, runs=items * exam.code)
    return found


def _benchmarks(case: Case, p: Parameters) -> Parts:
    every = [exam for exams in case.exams.values() for exam in exams]
    each = Work(models=1, loaded=case.shape.parameters) + _asked(case, every, p["limit"])
    yield "benchmarks", (1 + len(case.ranks)) * each
    own = [exam for domain in {*case.domains} for exam in case.exams.get(domain, ()) if not exam.text]
    beside = Work(models=1, loaded=case.shape.parameters) + _asked(case, own, p["limit"])
    yield "benchmarks of controls", len(case.controls) * beside


def _negation(case: Case, p: Parameters) -> Parts:
    yield "", Work(streamed=4 * len(case.ranks) * case.shape.parameters)
    for domain in case.domains:
        exams = case.exams.get(domain, ())
        marked = [exam for exam in exams if not exam.text]
        each = Work(models=1, loaded=case.shape.parameters) + _asked(case, marked, p["limit"])
        yield "", len(p["scales"]) * each  # λ = 0 and 1 are known from the benchmarks; in plain text they are not
        drawn = 2 * p["draws"] * len(p["turned_at"])
        ranks = [None] if None in case.ranks else case.ranks[:1]
        yield "", _draws(replace(case, ranks=ranks), drawn // 2) + drawn * each


def _cross_domain(case: Case, p: Parameters) -> Parts:
    shape, vectors = case.shape, len(case.every)
    full = sum(rank is None for rank in case.every)
    pairs = vectors * (vectors - 1) / 2 * (full > 0)
    matrices = [*shape.matrices * shape.layers, *shape.whole]
    products = pairs * sum(2 * min(sides) ** 2 * max(sides) for sides in matrices)
    yield "", Work(streamed=2 * vectors * shape.parameters, products=products)
    if len(set(case.domains)) > 1:
        every = [exam for domain in {*case.domains} for exam in case.exams.get(domain, ()) if not exam.text]
        each = Work(models=1, loaded=shape.parameters) + _asked(case, every, p["limit"])
        yield "benchmarks", (1 + len(case.ranks)) * each


def _addition(case: Case, p: Parameters) -> Parts:
    domains = sorted(set(case.domains))
    for domain in domains:
        marked = [exam for exam in case.exams.get(domain, ()) if not exam.text]
        each = Work(models=1, loaded=case.shape.parameters) + _asked(case, marked, p["limit"])
        yield "", ((1 + len(domains)) * len(p["scales"]) - len(domains)) * each  # the others are known


def _composition(case: Case, p: Parameters) -> Parts:
    domains = sorted(set(case.domains))
    if len(domains) < 2:
        return
    shape, vectors = case.shape, len(domains)
    exams = {domain: [exam for exam in case.exams.get(domain, ()) if not exam.text] for domain in domains}
    tokens = {domain: max((exam.own + REPLY for exam in some), default=REPLY) for domain, some in exams.items()}
    model = Work(models=1, loaded=shape.parameters, streamed=vectors * shape.parameters)
    each = sum((Work(read=shape.forward(count, head=True)) for count in tokens.values()), Work())  # a reply of a domain
    ways, count = len(p["settings"]), sum(len(scales) for _, scales, _ in p["settings"])
    yield "", (1 + vectors + count) * (model + p["replies"] * each) + (2 + vectors + ways) * (model + REPLIES * each)
    cells, others = len(p["shares"]) ** 2, 2 * p["pairs"] * (3 + p["draws"])
    yield "", p["pairs"] * cells * (model + p["replies"] * each) + others * (model + REPLIES / vectors * each)
    yield "", 2 * p["pairs"] * p["draws"] * _turned(case, case.ranks[0], 1)
    if None in case.ranks:
        once = sum(decomposed(sides) for sides in shape.matrices) * shape.layers * vectors
        yield "", Work(eigen=3 / ways * count * once)
    yield "", (2 + vectors + ways) * sum((model + _asked(case, some, p["limit"]) for some in exams.values()), Work())


def decomposed(sides: tuple[int, int]) -> float:
    """Operations of a matrix's decomposition: eigenvectors of its smaller Gram matrix, and two products."""
    least = min(sides)
    return (9 * least**3 + 4 * least**2 * max(sides)) * (2 if least <= FLOAT64_UP_TO else 1)


def projected(sides: tuple[int, int], rank: int | None) -> float:
    """Operations of a T's alignment with a decomposition, from the left, the right and both sides."""
    d_out, d_in = sides
    k = RANK * min(sides)
    if rank is not None:
        return 8 * k * max(rank, THIN) * max(sides)
    return 4 * k * d_out * d_in + 2 * k * k * max(sides) + 2 * min(sides) ** 2 * max(sides)


def _aligned(case: Case, ranks: Sequence[int | None]) -> Work:
    shape = case.shape
    found = Work(streamed=shape.layers * shape.block * (1 + len(ranks)))
    for sides in shape.matrices:
        found += shape.layers * Work(eigen=decomposed(sides), products=sum(projected(sides, rank) for rank in ranks))
    return found


def _nulls(case: Case, draws: int) -> Work:
    shape, found = case.shape, Work()
    for kind, sides in zip(MATRICES, shape.matrices, strict=True):
        d_out, d_in = sides
        found += shape.layers * Work(eigen=decomposed(sides), streamed=d_out * d_in)
        for rank in case.ranks:
            columns = d_in if rank is None else max(rank, THIN)
            each = 2 * RANK * min(sides) * d_out * columns  # of one projection from the left
            often = shape.layers - 1 + draws * (kind in NEURONS)
            reread = d_out * d_in * (1 if rank is not None else shape.layers)
            products = projected(sides, rank) + projected(sides, None) + often * each
            found += shape.layers * Work(products=products, streamed=reread)
    return found


def _alignment(case: Case, p: Parameters) -> Parts:
    yield "", _aligned(case, [*case.every, None])  # with a random T
    yield "nulls", _nulls(case, p["draws"])


def _energy(case: Case, p: Parameters) -> Parts:
    yield "", _aligned(case, case.ranks)
    yield "nulls", _nulls(case, 99)


def _start(case: Case, p: Parameters) -> Parts:
    if not case.forms:
        return
    shape, scales = case.shape, len(p["scales"])
    exams = [exam for exam in case.exams.get(case.domains[0], ()) if not exam.text]
    yield "", 2 * Work(models=2, loaded=2 * shape.parameters, traced=shape.forward(3 * COURSE, head=True))
    replies = sum(
        (shape.forward(min(e.items, p["limit"] or e.items) * e.own, head=True) for e in exams if e.reply), 0.0
    )
    each = Work(models=1, loaded=shape.parameters, read=replies) + _asked(case, exams, p["limit"])
    plain = Work(models=1, loaded=shape.parameters) + _asked(case, [e for e in exams if e.reply], p["limit"])
    yield "", (4 * scales - 3) * each + 5 * plain  # of eight ends three are one model and two another
    drawn = replace(case, ranks=case.ranks[:1])
    yield "", 2 * (_draws(drawn, p["draws"]) + 2 * p["draws"] * each)


REPLIES, ASKED, REPLY = 56, 50, 32  # held-out replies of a domain; tokens of a question, and of what is replied
ON_DOCUMENTS = 256  # tokens that are read of a document at most


def _path(case: Case, p: Parameters) -> Parts:
    shape, specialists, scales = case.shape, len(case.domains), p["scales"]
    replies = min(REPLIES, p["limit"] or REPLIES)
    of_domain = Work(read=shape.forward(replies * ASKED) + shape.forward(replies * REPLY, head=True), items=replies)
    tokens = sum(min(corpus, p["texts"] * ON_DOCUMENTS) for corpus in case.corpora)
    opened = Work(models=1, loaded=shape.parameters, read=shape.forward(tokens, head=True))
    inside = sum(0 < scale < 1 for scale in scales)
    pairs = specialists * (specialists - 1) / 2 + len(case.controls) * (len(case.controls) + 1) / 2
    asked = 1 + specialists * (len(scales) - 1) + pairs * inside + len(case.controls)
    yield "", asked * (opened + len(set(case.domains)) * of_domain + Work(streamed=2 * shape.parameters))
    often = p["draws"] * len(p["turned_at"]) * len(p["sides"])
    of_T = case.ranks[0] if case.ranks else None
    yield "", specialists * often * (opened + of_domain + _turned(case, of_T, 2))


def _matching(case: Case, p: Parameters) -> Parts:
    """Products of all neurons of a layer with all others; assignments of members are few beside them."""
    shape, every = case.shape, len(case.every)
    d_m, d = shape.matrices[MATRICES.index("W_gate")]
    depth, specialists = min(p["depth"], shape.layers), len(case.domains)
    pairs = every + specialists * (specialists - 1) / 2 + len(case.controls)
    by_weights = shape.layers * (pairs + len(case.ranks) + 2) + depth * (every + 1)  # in float64 one counts twice
    products = 6 * d_m**2 * d * by_weights + 2 * d_m**2 * p["tokens"] * p["parts"] * depth * (pairs + 2)
    yield "", Work(products=products, streamed=shape.layers * 3 * d_m * d * (every + 1))
    deep = _aligned(replace(case, shape=replace(shape, layers=depth)), [None] * (3 * len(case.ranks)))
    yield "", Work(products=deep.products, eigen=deep.eigen)
    read = shape.forward(p["tokens"] * p["parts"])
    yield "", (every + 3) * Work(models=1, loaded=shape.parameters, profiled=read)


def _tuned(case: Case, p: Parameters) -> Parts:
    """Trainings, there and back, with held-out replies read a few times; what kinds of matrix are alone is left out."""
    steps, seeds = p["steps"] or LESSONS.steps, p["seeds"] or LESSONS.seeds
    trainings = (LESSONS.ways + p["half"]) * seeds + p["half"]
    each = steps * case.shape.forward(LESSONS.tokens, head=True) * 3
    each += LESSONS.read * case.shape.forward(LESSONS.replies, head=True)
    yield "", trainings * Work(models=1, loaded=case.shape.parameters, read=each)
    yield "", Work(eigen=case.shape.layers * sum(map(decomposed, case.shape.matrices)))


FORMULAS: dict[str, Callable[[Case, Parameters], Parts]] = {
    "01": _families, "02_1": _activated, "02_2": _edit, "02_3": _ablation, "02_4": _similarity, "02_5": _patching,
    "03_1": _benchmarks, "03_2": _negation, "03_3": _cross_domain, "03_4": _addition, "04_1": _alignment,
    "04_2": _energy, "06_1": _path, "06_2": _matching, "06_3": _composition, "06_4": _tuned, "06_5": _start,
}  # fmt: skip


def memory(stem: str, parameters: Parameters, case: Case, element: int) -> tuple[float, float]:
    """Bytes that a page needs at once beside a model, and for models; the second is a GPU's memory where there is one.

    `element` is the bytes of a weight of a model in memory.
    """
    shape = case.shape
    largest = max(d_out * d_in for d_out, d_in in shape.matrices)
    if stem.startswith(("01_", "02_4", "03_3")):
        return BASE + 16 * max(largest, shape.vocabulary * shape.width), 0
    if stem.startswith("06_2"):
        d_m, d = shape.matrices[MATRICES.index("W_gate")]
        held = shape.parameters * (4 if parameters.get("dtype") == "float32" else element)
        return BASE + 48 * d_m**2 + 12 * d_m * d * (3 + len(case.every)), held
    if stem.startswith("04_"):
        return BASE + 4 * largest * (2 + len(case.every)), 4 * largest * (4 + len(case.every))
    exams = [exam for some in case.exams.values() for exam in some]
    longest = max((exam.own + exam.shared + exam.reply for exam in exams), default=256)
    rows = parameters.get("batch", WINDOW)
    held = 4 if parameters.get("dtype") == "float32" else element
    beside = rows * (longest * shape.cached * held + shape.vocabulary * 8)
    if stem.startswith("02_5"):
        beside = 4 * shape.layers * case.statement**2 * (3 * shape.width + 2 * max(map(max, shape.matrices)))
    return BASE + 8 * shape.vocabulary * shape.width, held * shape.parameters + beside
