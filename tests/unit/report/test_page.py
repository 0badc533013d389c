"""The page: sections where their data is, everything escaped, the same bytes again, and right in a real browser."""

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pyllm.data.tables import write_table
from pyllm.report.blocks import Cell, Column, Facts, Heading, Passages, Section, Table, Words, flat_facts, number
from pyllm.report.build import build_report
from pyllm.report.page import clean, page_of
from tests.support.browser import open_page
from tests.support.report_sources import (
    HOSTILE,
    score_step,
    score_table,
    write_finetune,
    write_recall,
    write_scores,
)


class Elements(HTMLParser):
    """Tags, their attributes and all text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[Path]:
    """Scores with anchors, a selection, a training run and a bench."""
    folder = tmp_path_factory.mktemp("sources")
    table = score_table(anchors=12)
    anchors = pl.DataFrame(
        {"id": [f"a{row}" for row in range(12)], "instruction": [f"anchor {row}?" for row in range(12)],
         "output": ["yes"] * 12, "zero_shot_nats": [-2.0] * 12}
    )  # fmt: skip
    write_scores(folder / "scores.parquet", table)
    write_table(anchors, folder / "anchors.parquet", format="parquet", steps=[score_step()])
    best = table.filter(pl.col("golden_score") > 0.5)
    steps = [score_step(), {"command": "select", "rules": {"threshold": 0.5}, "rows_in": 60, "version": "0.1.0"}]
    write_table(best, folder / "best.parquet", format="parquet", steps=steps)
    write_finetune(folder / "run")
    write_recall(folder / "recall")
    return [folder / name for name in ("scores.parquet", "anchors.parquet", "best.parquet", "run", "recall")]


@pytest.fixture(scope="module")
def page(sources) -> str:
    return build_report(sources)[0]


def test_sections_are_there_where_their_data_is(sources, page):
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == ["What ran on what", "Golden scores", "Training", "Streaming memory"]
    only, titles = build_report(sources[3:4])
    assert titles == ["What ran on what", "Training"]
    assert re.findall(r'<section id="(\w+)">', only) == ["origins", "training"]


def test_what_ran_on_what_names_models_seeds_and_cost(page):
    origins = page.split('<section id="origins">')[1].split("</section>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(<td.*?)</tr>", origins)]
    assert rows[0] == ["scores.parquet", "scores, score", "abababababab", "7", "0.1.0", "–", "–", "–"]
    assert rows[3] == ["run", "finetune", "tiny abababababab", "3", "0.1.0", "4.5", "500", "–"]
    assert rows[4] == ["recall", "stream bench recall", "tiny abababababab", "2", "0.1.0", "–", "–", "–"]


def test_golden_scores_say_what_is_in_the_table(sources, page):
    table = pl.read_parquet(sources[0])
    above = {limit: table.filter(pl.col("golden_score") > limit).height for limit in (0.5, 0.6, 0.7, 0.8, 0.85, 0.9)}
    for limit, rows in above.items():
        assert f"&gt; {limit:g}: {rows}" in page  # in the histogram
        assert re.search(rf">{limit:.2f}</td><td class=\"number\" data-value=\"{float(rows)}\">{rows}<", page)
    best = table.sort("golden_score", "wins", "mean_gain_nats", descending=True, nulls_last=True)
    first = re.search(r"<h4>Best rows</h4>.*?<tbody>\s*<tr>(.*?)</tr>", page, re.DOTALL)
    assert first is not None
    assert best["instruction"][0] in first[1]
    assert "60 rows, 1 of them without a score" in page
    selected = pl.read_parquet(sources[2])
    assert f"{selected.height} of the 60 rows of scores.parquet" in page
    assert "selected by threshold 0.5" in page


def test_gains_are_one_shot_less_zero_shot(sources, page):
    table = pl.read_parquet(sources[0])
    best = table.sort("golden_score", "wins", "mean_gain_nats", descending=True, nulls_last=True)["one_shot_nats"][0]
    gain = float(np.max(best.to_numpy())) + 2.0
    place = int(np.argmax(best.to_numpy()))
    assert f"{gain:+8.3f} nats  anchor {place}?  -&gt;  yes" in page


def test_without_what_it_came_from_a_selection_says_so(sources):
    alone, _ = build_report(sources[2:3])
    assert "These rows were selected from 60 by threshold 0.5" in alone
    assert "before and after selection" not in alone


def test_equal_rows_are_matched_in_their_order(tmp_path):
    whole = pl.DataFrame(
        {"id": ["x", "x", "y", "z"], "golden_score": [0.9, 0.9, 0.8, 0.1], "demo_tokens": [1, 1, 2, 3]}
    )
    write_table(whole, tmp_path / "whole.parquet", format="parquet")
    write_table(whole[[0, 1]], tmp_path / "best.parquet", format="parquet")
    page, _ = build_report([tmp_path / "best.parquet", tmp_path / "whole.parquet"])
    assert "2 of the 4 rows of whole.parquet" in page
    # Three times the same row are no selection from two.
    write_table(whole[[0, 0, 0]], tmp_path / "other.parquet", format="parquet")
    page, _ = build_report([tmp_path / "other.parquet", tmp_path / "whole.parquet"])
    assert "rows of whole.parquet" not in page


def test_training_shows_what_was_done_last(page):
    training = page.split('<section id="training">')[1].split("</section>")[0]
    assert "tiny trained for 5 of 5 steps on 20 rows: 500 tokens" in training
    assert "Held-out loss 2.5000 at step 0, 1.2500 at the end, 1.2500 at best (step 5)." in training
    assert re.findall(r"<figcaption>(.*?)</figcaption>", training) == [
        "Loss",
        "Throughput",
        "Learning rate",
        "Gradient norm",
    ]


def test_equal_inputs_give_equal_bytes(sources, page):
    assert build_report(sources)[0] == page


def test_nothing_of_the_data_is_more_than_text(tmp_path):
    table = score_table(24, texts=HOSTILE).with_columns(source_file=pl.Series([HOSTILE[row % 8] for row in range(24)]))
    write_scores(tmp_path / "scores.parquet", table, note=HOSTILE[0])
    write_scores(tmp_path / "best.parquet", table[:6])
    page, _ = build_report([tmp_path / "scores.parquet", tmp_path / "best.parquet"], title=HOSTILE[0])
    found = Elements(page)
    assert found.count("script") == 1
    assert found.count("img") == 0
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert "<script>document" not in page
    text = "".join(found.texts)
    for hostile in (*HOSTILE[:3], *HOSTILE[5:]):
        assert hostile in text
    assert "␀␇␛[31mred␛[0m" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u200f\ud800-\udfff]", page)
    page.encode()


def test_characters_that_no_page_can_hold():
    assert clean("a\tb\n\x00\x9f\ud800\u2066\ufffe日🙂") == "a\tb\n␀\ufffd\ufffd\ufffd\ufffd日🙂"


def test_every_block_is_escaped():
    bad = "<b>&\"'</b>"
    blocks = (
        Heading(bad), Words(bad), Facts(((bad, bad),), bad), Table(bad, (Column(bad),), ((Cell(bad),),), bad),
        Passages(bad, ((bad, ((bad, bad),)),)),
    )  # fmt: skip
    page = page_of(bad, [Section("x", bad, blocks)], made_with=bad)
    assert "<b>" not in page
    assert page.count("&lt;b&gt;") == 19


def test_numbers_are_shown_with_what_they_are_sorted_by():
    assert number(0.1234, (0.1, 0.2), percent=True) == Cell("12.3 % (10.0 to 20.0)", 0.1234)
    assert number(-2.5, digits=1, signed=True) == Cell("-2.5", -2.5)
    assert number(None) == Cell("–")
    assert number(float("nan")) == Cell("–")
    assert flat_facts({"b": {"c": "ab" * 32}, "a": [1, 2], "d": None}) == (("a", "1, 2"), ("b.c", "abababababab"))


LOOK = """(page, view) => {
  const drawn = [...page.querySelectorAll("figure svg")].map((svg) => {
    const box = svg.getBoundingClientRect();
    const shapes = [...svg.querySelectorAll("path, use")].filter((each) => each.getBoundingClientRect().width > 0);
    return box.width > 200 && box.height > 50 && shapes.length > 3 && svg.querySelectorAll("text").length > 2;
  });
  const ink = (element) => view.getComputedStyle(element).color;
  const label = page.querySelector("figure svg text");
  return { drawn, wide: page.documentElement.scrollWidth, ground: view.getComputedStyle(page.body).backgroundColor,
    label: view.getComputedStyle(label).fill, labelSize: label.getBoundingClientRect().height,
    evil: page.getElementById("evil") !== null };
}"""
SORT = """(page, view) => {
  const table = [...page.querySelectorAll("h4")].find((each) => each.textContent === "Best rows")
    .nextElementSibling.querySelector("table");
  const column = (place) => [...table.tBodies[0].rows].map((row) => row.cells[place].textContent);
  const press = (place) => table.tHead.rows[0].cells[place].querySelector("button").click();
  const seen = { given: column(0) };
  press(4); seen.up = column(4);
  press(4); seen.down = column(4); seen.said = table.tHead.rows[0].cells[4].getAttribute("aria-sort");
  press(4); seen.again = column(0);
  press(5); seen.words = column(5);
  return seen;
}"""


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (400, True)])
def test_a_browser_draws_everything_and_asks_for_nothing(page, width, dark, tmp_path):
    seen = open_page(page, tmp_path, probe=LOOK, width=width, dark=dark)
    assert (seen.console, seen.asked) == ([], ["/page.html"])
    assert seen.found["drawn"] == [True] * page.count("<svg ")
    assert page.count("<svg ") == 11
    assert seen.found["wide"] <= width  # only tables may be pushed aside
    assert seen.found["ground"] == ("rgb(18, 22, 28)" if dark else "rgb(255, 255, 255)")
    assert seen.found["label"] == ("rgb(163, 173, 188)" if dark else "rgb(86, 98, 116)")
    assert seen.found["labelSize"] > 9


def test_a_browser_sorts_tables_and_runs_nothing_of_the_data(tmp_path):
    write_scores(tmp_path / "scores.parquet", score_table(24, texts=HOSTILE))
    page, _ = build_report([tmp_path / "scores.parquet"])
    seen = open_page(page, tmp_path, probe=SORT.replace("return seen", "seen.evil = page.body.id; return seen"))
    assert (seen.console, seen.asked, seen.found["evil"]) == ([], ["/page.html"], "")
    assert seen.found["given"] == [str(rank) for rank in range(1, 11)] == seen.found["again"]
    sizes = [int(text) for text in seen.found["up"]]
    assert sizes == sorted(sizes) != [int(text) for text in seen.found["down"]]
    assert [int(text) for text in seen.found["down"]] == sizes[::-1]
    assert seen.found["said"] == "descending"
    assert len(set(seen.found["words"])) > 1


def test_fifty_thousand_rows_are_a_small_page_that_opens_at_once(tmp_path):
    write_scores(tmp_path / "scores.parquet", score_table(50_000, texts=[f"{place} " * 200 for place in range(50)]))
    begun = time.process_time()
    page, _ = build_report([tmp_path / "scores.parquet"])
    assert time.process_time() - begun < 10
    assert len(page.encode()) < 1_000_000
    # Other work on the machine is not the page's: once of three times is enough.
    assert any(open_page(page, tmp_path, probe="() => ({})").found["opened"] < 2000 for _ in range(3))
