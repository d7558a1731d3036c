import gzip
import io
import json
import tarfile
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tuningvec.data import data_folder
from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family, HubText, TextFiles
from tuningvec.measures import corpus
from tuningvec.measures.corpus import documents
from tuningvec.store import Store

ARTICLE = """<?xml version="1.0"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS 1.0//EN" "nowhere.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink">
 <front><article-meta><title-group><article-title>On <italic>gout</italic></article-title></title-group>
 <related-article><article-title>Another article</article-title></related-article>
 <abstract><p>Gout hurts.</p></abstract></article-meta></front>
 <body><sec><title>Methods</title>
  <p>We asked [<xref ref-type="bibr" rid="b1">1</xref>, <xref ref-type="bibr" rid="b2">2</xref>] ten patients
   (see <xref ref-type="fig" rid="f1">Figure 1</xref>)
   <xref ref-type="bibr" rid="b1">1</xref>, <xref ref-type="bibr" rid="b2">2</xref>.
   <list><list-item><p>An item.</p></list-item></list></p>
  <table-wrap><table><tr><td>42</td></tr></table></table-wrap>
  <p>They agreed: <inline-formula>x</inline-formula> &amp; y.</p></sec></body>
 <back><ref-list><ref>A book.</ref></ref-list></back>
</article>
"""
BULK = "==== Front\nJournal\n==== Body\nThe body.\n==== Refs\nA book.\n"


def texts(path, **options):
    return list(documents(TextFiles(kind="files", path=path, **options), path.parent))


@pytest.fixture
def words():
    """One token a word, with a start and an end token."""
    known = {w: i for i, w in enumerate(["[UNK]", "<s>", "</s>", *"abcdefghij"])}
    made = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def tokenised(words, documents, **options):
    spec = TextFiles(kind="files", path="none", **options)
    return corpus._tokenised(spec, documents, words)


def test_a_text_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("  One.\n\nTwo. \n")
    assert texts(tmp_path / "a.txt") == ["One.\n\nTwo."]


def test_a_line_of_jsonl_is_a_document_also_when_compressed(tmp_path):
    lines = "".join(json.dumps({"body": text}) + "\n" for text in ("Eins.", "", "Zwei."))
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert texts(tmp_path / "a.jsonl", field="body") == ["Eins.", "Zwei."]
    assert texts(tmp_path / "b.jsonl.gz", field="body") == ["Eins.", "Zwei."]


def test_an_article_keeps_its_prose(tmp_path):
    (tmp_path / "a.nxml").write_text(ARTICLE)
    (text,) = texts(tmp_path / "a.nxml")
    assert text.split("\n\n") == [
        "On gout",
        "Gout hurts.",
        "We asked ten patients (see Figure 1). An item.",
        "They agreed: & y.",
    ]


def test_a_folder_is_read_in_the_order_of_names_and_a_bulk_package_whole(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name, text in (("PMC1/1.txt", BULK), ("PMC1/2.xml", ARTICLE), ("PMC1/list.csv", "x")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    (tmp_path / "notes.md").write_text("not read")
    found = texts(tmp_path)
    assert [found[0], found[-1], len(found)] == ["The body.", "second", 3]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b" \n", "no document in it"),
        ("a.txt", "Käse".encode("latin-1"), "not UTF-8 at byte 1"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', "line 2: not a JSON object with a text 'text'"),
        ("a.jsonl", b"{]\n", "line 1"),
        ("a.xml", b"<article><p>", "not readable as XML"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TuningVecError, match=said) as error:
        texts(tmp_path / name)
    assert name in str(error.value)


def shown(words, rows):
    return [words.convert_ids_to_tokens(row[mask].tolist()) for row, mask in zip(*rows, strict=True)]


def test_packed_rows_hold_one_document_after_the_other(words):
    found = tokenised(words, ["a b c", "d e"], tokens=100, window=4)
    assert shown(words, found.rows()) == [["<s>", "a", "b", "c"], ["</s>", "<s>", "d", "e"], ["</s>"]]
    assert (found.documents, found.count, found.asked) == (2, 9, 100)


def test_otherwise_each_document_begins_a_row(words):
    found = tokenised(words, ["a b c", "d"], tokens=100, window=4, packed=False)
    assert shown(words, found.rows()) == [["<s>", "a", "b", "c"], ["</s>"], ["<s>", "d", "</s>"]]


@pytest.mark.parametrize("packed", [True, False])
def test_reading_stops_at_the_budget(words, packed):
    read = []
    stream = (read.append(i) or "a b c d" for i in range(1000))
    found = tokenised(words, stream, tokens=20, window=8, packed=packed)
    assert found.count == 20 and found.documents == 4 and len(read) <= corpus.AT_ONCE + 1


def test_no_document_is_lost_between_batches_of_the_tokenizer(words):
    letters = [*"abcdefghij"] * (3 * corpus.AT_ONCE // 10)
    found = tokenised(words, letters, tokens=10_000, window=3)
    assert words.decode(found.rows().ids[:, 1]).split() == letters and found.documents == len(letters)


@pytest.mark.parametrize("packed", [True, False])
def test_no_document_is_in_two_parts_and_all_are_in_one(words, packed):
    texts = [" ".join([letter] * (i % 4 + 1)) for i, letter in enumerate("abcdefghij")]  # each of a letter of its own
    found = tokenised(words, texts, tokens=33, window=3, packed=packed)
    parts = [found.part(i, 3) for i in range(3)]
    read = [part.rows() for part in parts]
    letters = [set(words.decode(rows.ids[rows.mask], skip_special_tokens=True).split()) for rows in read]
    assert sum(map(len, letters)) == len(set().union(*letters)) == found.documents == 8
    assert sum(part.count for part in parts) == sum(int(rows.mask.sum()) for rows in read) == found.count == 33
    assert torch.cat([part.flat for part in parts]).bincount().tolist() == found.flat.bincount().tolist()
    assert len({part.digest() for part in (found, *parts)}) == 4


def test_where_documents_end_is_part_of_the_checksum(words):
    one, other = (tokenised(words, [""], tokens=9, window=4) for _ in range(2))
    one, other = (replace(one, flat=torch.arange(4).int(), lengths=torch.tensor(n).int()) for n in ([1, 3], [2, 2]))
    assert one.digest() != other.digest()


@pytest.fixture
def family(tmp_path):
    """The family tiny with a corpus of its own."""
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": f"Drug {i} is used."}) + "\n" for i in range(30)))
    spec = Family.load("tiny")
    own = {"own": TextFiles(kind="files", path=tmp_path / "text.jsonl", tokens=90, window=16)}
    changed = spec.model_copy(update={"corpora": own})
    changed._file = spec.file
    return changed


def test_a_corpus_is_tokenised_once_for_each_tokenizer(family, words, tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    tokenizer = AutoTokenizer.from_pretrained(data_folder() / "families/tiny/pretrained")
    first = corpus.tokens(family, "own", tokenizer, store)
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "_tokenised", lambda *_: 1 / 0)
        again = corpus.tokens(family, "own", tokenizer, store)
        assert torch.equal(again.flat, first.flat) and torch.equal(again.lengths, first.lengths)
        assert (again.documents, again.asked) == (first.documents, 90)
        with pytest.raises(ZeroDivisionError):
            corpus.tokens(family, "own", words, store)
    with (tmp_path / "text.jsonl").open("a") as stream:
        stream.write('{"text": "more"}\n')
    monkeypatch.setattr(corpus, "_tokenised", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        corpus.tokens(family, "own", tokenizer, store)


def hub(**options):
    return HubText(kind="hub", repo="owner/articles", revision="0" * 40, **options)


def test_a_data_set_is_streamed(tmp_path, monkeypatch):
    folder = tmp_path / "owner" / "articles"  # a folder of that name stands in for the hub
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": f"Text {i}."}) + "\n" for i in range(3)))
    monkeypatch.chdir(tmp_path)
    assert list(documents(hub(), tmp_path)) == ["Text 0.", "Text 1.", "Text 2."]
    with pytest.raises(TuningVecError, match="no text 'body'; there are text"):
        list(documents(hub(field="body"), tmp_path))


def test_a_data_set_that_cannot_be_reached_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(TuningVecError, match="data set owner/articles at 0000000000 was not read"):
        list(documents(hub(), tmp_path))


@pytest.mark.parametrize("name", ["medical", "general"])
def test_the_shipped_corpora_are_long_enough_for_the_book(name):
    spec = Family.load("smollm2", files=False)
    found = list(documents(spec.corpora[name], spec.root))
    assert len(set(found)) == len(found) and sum(len(text.split()) for text in found) > spec.corpora[name].tokens
