"""The page of a development cycle or of a search: one self-contained HTML file made from its JSON alone."""

from raymds.report.files import RunFiles
from raymds.report.page import render

__all__ = ["RunFiles", "render"]
