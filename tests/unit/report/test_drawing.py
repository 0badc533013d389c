"""Drawings hold text as text, take their colours from the page, do not mix, and are the same every time."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from pyllm.report import drawing
from pyllm.report.drawing import Curve, Dot, Mark, Point
from tests.support.report_sources import HOSTILE

VALUES = np.linspace(0, 1, 50)


def every_kind(label="label"):
    shares = np.array([[1, 0.5], [np.nan, 0]])
    counts, edges = np.histogram(VALUES, bins=10, range=(0, 1))
    many = np.random.default_rng(0).normal(size=(2, 5000))
    return {
        "histogram": drawing.histogram(counts, edges, across=label, marks=[Mark(0.5, label)]),
        "points": drawing.cloud(VALUES, VALUES, across=label, up=label, middle=Curve(label, [0, 1], [0, 1])),
        "cells": drawing.cloud(*many, across=label, up=label),
        "log": drawing.cloud(VALUES * 1000 + 1, VALUES, across=label, up=label, log_x=True),
        "lines": drawing.lines([Curve(label, [1, 2], [3, 4]), Curve("other", [1, 2], [4, 5])], across=label, up=label),
        "dots": drawing.dots([Dot(label, 1.0, 0.5, 1.5), Dot("other", 2.0)], across=label, zero=0.0),
        "strips": drawing.strips([(label, [1.0, -1.0]), ("none", [])], across=label, zero=0.0),
        "paired": drawing.paired_bars([label], [(1.0, 2.0)], (label, "other"), across=label),
        "stacked": drawing.stacked_bars([label], [[1.0, 2.0]], [label, "other"], across=label),
        "over": drawing.points([Point(label, 1.0, 2.0, 1.0, 3.0)], across=label, up=label),
        "shades": drawing.shades(shares, np.arange(3.0), np.arange(3.0), across=label, up=""),
    }  # fmt: skip


def texts(svg):
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter("text")]


@pytest.fixture(scope="module")
def plain_drawings():
    return every_kind()


def test_text_stays_text(plain_drawings):
    for name, svg in plain_drawings.items():
        assert any("label" in text for text in texts(svg)), name


def test_every_colour_is_one_of_the_pages(plain_drawings):
    for name, svg in plain_drawings.items():
        assert not re.findall(r"(?:fill|stroke): ?#", svg), name
        assert "var(--" in svg, name


def test_nothing_points_outside_and_ids_do_not_mix(plain_drawings):
    ids = []
    for name, svg in plain_drawings.items():
        root = ElementTree.fromstring(svg)
        own = [each.attrib["id"] for each in root.iter() if "id" in each.attrib]
        pointed = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
        assert pointed == set(own), name
        assert "http" not in svg, name
        assert {each.tag for each in root.iter()} <= {
            "svg",
            "g",
            "path",
            "text",
            "tspan",
            "defs",
            "use",
            "clipPath",
            "rect",
        }
        ids += own
    assert len(ids) == len(set(ids))


def test_equal_numbers_give_equal_bytes_whatever_a_user_has_set(plain_drawings):
    import matplotlib as mpl

    with mpl.rc_context({"axes.facecolor": "red", "lines.linewidth": 9, "font.size": 30, "text.usetex": True}):
        assert every_kind() == plain_drawings


def test_any_text_can_be_a_label():
    for label in [*HOSTILE, "", "\ud800", "x" * 5000]:
        for name, svg in (
            every_kind(label).items()
            if label == HOSTILE[0]
            else [("dots", drawing.dots([Dot(label, 1.0)], across=label))]
        ):
            shown = texts(svg)  # it can be read again
            assert not set("\x00\x07\x1b\u202e\ud800") & set("".join(shown)), name
    assert any("$\\frac{1}{2}$ and $x" in text for text in texts(drawing.dots([Dot(HOSTILE[5], 1.0)], across="")))


def test_equal_values_do_not_spread_over_an_axis():
    shown = texts(drawing.dots([Dot("a", 0.1 + 0.2), Dot("b", 0.3)], across="", zero=0.3))
    assert not any("e" in text for text in shown if text not in ("a", "b"))


def test_long_curves_become_means_of_neighbours():
    curve = drawing.curve_of("x", ((place, float(place % 2)) for place in range(3000)), most=300)
    assert len(curve.x) == 300
    assert curve.y == [0.5] * 300
    assert curve.x[0] == 4.5
    assert drawing.curve_of("x", [(1, 2.0)]).y == [2.0]
