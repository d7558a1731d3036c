"""Text that models are run on: documents from files or from a hub data set, tokenised to a budget."""

import gzip
import hashlib
import io
import json
import re
import tarfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int32
from lxml import etree
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from tuningvec.errors import TuningVecError, parsed_json, reading
from tuningvec.family.spec import Corpus, Family, HubText, TextFiles
from tuningvec.store import Store

AT_ONCE = 64  # documents that are handed to the tokenizer together
LARGEST, RATIO = 32 * 2**20, 100  # bytes of a document; how many times its size a packed file may hold
CONVERT = "convert the file, or leave it out"
BODY, REFERENCES = "==== Body", "==== Refs"  # headings of PMC's bulk text


class Rows(NamedTuple):
    """What a model reads: rows of at most a window; `mask` is false where a row is padded on the right."""

    ids: Int32[Tensor, "rows window"]
    mask: Bool[Tensor, "rows window"]


@dataclass(frozen=True)
class Tokens:
    """Documents one after the other, of so many tokens each; `asked` is the budget that they were read to."""

    flat: Int32[Tensor, " tokens"]
    lengths: Int32[Tensor, " documents"]
    window: int
    packed: bool
    asked: int

    @property
    def count(self) -> int:
        return len(self.flat)

    @property
    def documents(self) -> int:
        return len(self.lengths)

    def part(self, index: int, parts: int) -> "Tokens":
        """Every `parts`-th document from document `index` on: no document lies in two parts."""
        some = self.flat.split(self.lengths.tolist())[index::parts]
        return replace(self, flat=torch.cat(some), lengths=self.lengths[index::parts])

    def rows(self) -> Rows:
        """Rows cut at `window`; packed, documents follow each other in them, else each begins one of its own."""
        lengths = [self.count] if self.packed else self.lengths.tolist()
        cuts = [cut for length in lengths for cut in _cuts(length, self.window)]
        ids = pad_sequence(list(self.flat.split(cuts)), batch_first=True)
        return Rows(ids, torch.arange(ids.shape[1]) < torch.tensor(cuts).unsqueeze(1))

    def digest(self) -> str:
        """A checksum of what a model reads, and of where documents end."""
        state = hashlib.sha256(repr((self.window, self.packed)).encode())
        for tensor in (self.flat, self.lengths):
            state.update(tensor.numpy().tobytes())
        return state.hexdigest()


def documents(corpus: Corpus, root: Path) -> Iterator[str]:
    """The documents of a corpus in its own order, as long as more are asked for.

    Raises TuningVecError for a file that is absent, empty, not UTF-8 or not what its suffix says.
    """
    found = 0
    texts = _of_hub(corpus) if isinstance(corpus, HubText) else _of_files(corpus, root)
    for text in texts:
        if text := text.strip():
            found += 1
            with reading(f"{_name(corpus, root)}: document {found}", CONVERT):
                text.encode()  # half of a character that stands as two makes no token
            yield text
    if not found:
        raise TuningVecError(f"{_name(corpus, root)}: no document in it")


def tokens(family: Family, name: str, tokenizer: PreTrainedTokenizerBase, store: Store | None = None) -> Tokens:
    """The family's corpus `name`, tokenised up to its budget; with a store, once for each tokenizer.

    Each document stands between the tokenizer's start and end token where it has them. A corpus that is shorter than
    its budget is taken whole. Raises TuningVecError as `documents` does.
    """
    corpus = family.corpora[name]
    if store is None:
        return _tokenised(corpus, documents(corpus, family.root), tokenizer)
    files = [] if isinstance(corpus, HubText) else [store.digest(file) for file in corpus.files(family.root)]
    spec = corpus.model_dump(mode="json", exclude={"path"})
    record = store.record("tokens", {"corpus": spec, "files": files, "tokenizer": _identity(tokenizer)}, __name__)
    if "all" not in record:
        made = _tokenised(corpus, documents(corpus, family.root), tokenizer)
        record.add("all", [], {"flat": made.flat, "lengths": made.lengths})
    return Tokens(**record.arrays("all"), window=corpus.window, packed=corpus.packed, asked=corpus.tokens)


def _identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """A checksum of how text becomes tokens."""
    specials = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer("a")["input_ids"]]
    text = tokenizer.backend_tokenizer.to_str() + json.dumps(specials)
    return hashlib.sha256(text.encode()).hexdigest()


def _tokenised(corpus: Corpus, texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Tokens:
    flat, lengths = array("i"), []
    with tqdm(total=corpus.tokens, desc="tokenise", unit=" tokens", unit_scale=True) as bar:
        for ids in _encoded(texts, tokenizer):
            ids = ids[: corpus.tokens - len(flat)]
            flat.extend(ids)
            lengths.append(len(ids))
            bar.update(len(ids))
            if len(flat) >= corpus.tokens:
                break
    made = (torch.tensor(some, dtype=torch.int32) for some in (flat, lengths))
    return Tokens(*made, window=corpus.window, packed=corpus.packed, asked=corpus.tokens)


def _cuts(length: int, window: int) -> list[int]:
    """Lengths of the rows that so many tokens are cut into."""
    whole, rest = divmod(length, window)
    return [window] * whole + [rest] * bool(rest)


def _encoded(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Token ids of each document, with the start token where the tokenizer has one and the end token."""
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    texts = iter(texts)
    while some := list(islice(texts, AT_ONCE)):
        for ids in tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]:
            yield start + ids + end


def _name(corpus: Corpus, root: Path) -> str:
    return corpus.repo if isinstance(corpus, HubText) else str(root / corpus.path)


def _of_hub(corpus: HubText) -> Iterator[str]:
    """Rows of a data set, streamed: nothing but what is read is fetched."""
    from datasets import load_dataset

    where = f"data set {corpus.repo} at {corpus.revision[:10]}"
    try:
        rows = load_dataset(corpus.repo, corpus.subset, revision=corpus.revision, split=corpus.split, streaming=True)
        for row in rows:
            if not isinstance(text := row.get(corpus.field), str):
                raise TuningVecError(f"{where}: field: no text {corpus.field!r}; there are {', '.join(sorted(row))}")
            yield text
    except (OSError, ValueError, KeyError) as error:
        raise TuningVecError(
            f"{where} was not read: {error}; check name, commit and split, unset HF_HUB_OFFLINE, or name files"
        ) from None


def _of_files(corpus: TextFiles, root: Path) -> Iterator[str]:
    for file in corpus.files(root):
        with reading(file, CONVERT), file.open("rb") as raw:
            content = io.BufferedReader(_Unpacked(raw, str(file))) if file.suffix == ".gz" else raw
            if file.suffixes[-2:] != [".tar", ".gz"]:
                yield from _read(content, str(file), Path(file.name.removesuffix(".gz")).suffix, corpus.field)
                continue
            with tarfile.open(fileobj=content, mode="r|") as archive:  # one of PMC's bulk packages
                for member in archive:
                    if member.isfile():
                        part = archive.extractfile(member)
                        yield from _read(part, f"{file}: {member.name}", Path(member.name).suffix, corpus.field)


class _Unpacked(io.RawIOBase):
    """What a gzip file holds; raises TuningVecError where much comes of little, as no text does."""

    def __init__(self, raw: io.BufferedReader, where: str):
        self._raw, self._gzip, self._where, self._given = raw, gzip.GzipFile(fileobj=raw), where, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = self._gzip.readinto(buffer)
        self._given += read
        if self._given > LARGEST and self._given > RATIO * self._raw.tell():
            raise TuningVecError(f"{self._where}: expands to more than {RATIO} times its size; {CONVERT}")
        return read


def _read(content: io.BufferedIOBase, where: str, suffix: str, field: str) -> Iterator[str]:
    with reading(where, CONVERT):
        if suffix == ".jsonl":
            yield from _lines(content, where, field)
        elif suffix in (".txt", ".xml", ".nxml"):
            whole = _bounded(content.read(LARGEST + 1), where)
            if suffix == ".txt":
                yield _body(whole.decode("utf-8"))
            else:
                with reading(f"{where}: not readable as XML", CONVERT):
                    text = _article(whole)
                yield text


def _bounded(some: bytes, where: str) -> bytes:
    if len(some) > LARGEST:
        raise TuningVecError(f"{where}: a document of more than {LARGEST // 2**20} MB; split it")
    return some


def _lines(content: io.BufferedIOBase, where: str, field: str) -> Iterator[str]:
    for number, line in enumerate(iter(partial(content.readline, LARGEST + 1), b""), 1):
        at = f"{where}: line {number}"
        found = parsed_json(_bounded(line, at), at, CONVERT)
        text = found.get(field) if isinstance(found, dict) else None
        if not isinstance(text, str):
            raise TuningVecError(f"{at}: not a JSON object with a text {field!r}")
        yield text


def _body(text: str) -> str:
    """A text; of PMC's bulk text the part between the front matter and the references."""
    if BODY in text:
        text = text.split(BODY, 1)[1].split(REFERENCES, 1)[0]
    return text


def _article(content: bytes) -> str:
    """Title, abstract and paragraphs of an article in JATS XML, less tables, figures, formulas and citation marks."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True)
    tree = etree.ElementTree(etree.fromstring(content, parser))
    for citation in tree.xpath("//*[local-name()='xref'][@ref-type='bibr']"):
        citation.tag = CITATION
    etree.strip_elements(tree, CITATION, *(f"{{*}}{tag}" for tag in NO_PROSE), with_tail=False)
    parts = (" ".join("".join(node.itertext()).split()) for node in tree.xpath(PROSE))
    text = re.sub(r" ?[\[(][\s,;–-]*[\])]", "", "\n\n".join(parts))  # brackets that held citations alone
    return re.sub(r"(\s+[,–])*\s*(?=[.,;:])", "", text)  # and what stood between citations without brackets


CITATION = "citation-mark"
NO_PROSE = ("table-wrap", "fig", "disp-formula", "inline-formula", "ref-list")
PROSE = " | ".join(
    f"//*[local-name()='{part}']//*[local-name()='{tag}'][not(ancestor::*[local-name()='p'])]"
    for part, tag in (("title-group", "article-title"), ("abstract", "p"), ("body", "p"))
)
