"""The page of one development cycle: one self-contained HTML file made from the run's JSON alone."""

from raymds.report.page import RunFiles, render

__all__ = ["RunFiles", "render"]
