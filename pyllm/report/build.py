"""From paths to a page."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pyllm.provenance import package_version
from pyllm.report.blocks import Section
from pyllm.report.judging import judging_section
from pyllm.report.memory import memory_section
from pyllm.report.origins import origins_section
from pyllm.report.page import page_of
from pyllm.report.scores import scores_section
from pyllm.report.sources import Sources, read_sources
from pyllm.report.tasks import tasks_section
from pyllm.report.training import training_section

_SECTIONS: tuple[Callable[[Sources], Section | None], ...] = (
    scores_section, training_section, memory_section, tasks_section, judging_section,
)  # fmt: skip


def build_report(paths: Sequence[Path], *, title: str = "toolkit report") -> tuple[str, list[str]]:
    """Read finished runs and tables, and make one page of them.

    Args:
        paths: Run folders, tables and JSON reports, in any order.
        title: Of the page.

    Returns:
        The page, and the titles of its sections.

    Raises:
        InputError: A path cannot be read, is not finished, or is nothing that is known.
        PrerequisiteError: matplotlib is not installed.
    """
    sources = read_sources(list(paths))
    sections = [origins_section(sources), *(made for build in _SECTIONS if (made := build(sources)) is not None)]
    page = page_of(title, sections, made_with=f"Made by toolkit report, pyllm {package_version()}.")
    return page, [section.title for section in sections]
