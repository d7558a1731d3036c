import pytest
from test_compendium import project, run  # noqa: F401

from tuningvec.book import compendium, times
from tuningvec.weights import engine


@pytest.fixture
def pages(project, monkeypatch):  # noqa: F811
    monkeypatch.setenv("TUNINGVEC_DTYPE", "float32")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return compendium.plan(project, ["mine"])


def test_a_page_that_was_executed_may_take_as_long_again(pages, project):  # noqa: F811
    assert times.expected(pages) == [None, None]
    run(project)
    assert times.expected(pages) == [page.seconds() for page in pages]


def test_else_a_recording_is_scaled_by_the_speed_of_this_machine(pages, project, monkeypatch):  # noqa: F811
    rows = ["page,dtype,gigaflops,seconds", "mine/01_one,float32,400,30", "mine/01_one,bfloat16,900,7"]
    (project.root / "data" / "times.csv").write_text("\n".join(rows), encoding="utf-8")
    slowly = engine.gigaflops("float32")
    (known, unknown) = times.expected(pages)
    assert unknown is None and known == pytest.approx(30 * 400 / slowly, rel=0.8)
    said = times.announced(pages, pages[:1], [known])
    assert said.startswith("1 of 2 pages are to be executed, on 1 thread in float32: about ")
    assert ", and 1 page of which no time is known." in times.announced(pages, pages, [known, unknown])
    assert "a time not known yet" in times.announced(pages, pages, [unknown, unknown])
