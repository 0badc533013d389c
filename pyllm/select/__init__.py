"""Choosing rows of a score table: the rules, and what a selection is made of.

Source: NUGGETS (arXiv 2312.10302), "Golden Score" and the subsets of Tables 1 to 4.
"""

from pyllm.data.top import Top, parse_top
from pyllm.select.composition import Composition, composition
from pyllm.select.report import CUTS, SelectionReport, selection_report
from pyllm.select.rules import Rules, Selection, ranked_rows, select_rows

__all__ = [
    "CUTS",
    "Composition",
    "Rules",
    "Selection",
    "SelectionReport",
    "Top",
    "composition",
    "parse_top",
    "ranked_rows",
    "select_rows",
    "selection_report",
]
