"""The report: one HTML file with everything in it, readable without a server, a network or a script.

``run_files`` reads a run, ``sections`` and ``pictures`` make blocks of it, ``page`` renders them; ``comparison`` and
``comparison_page`` do the same for arms. The template, style and script are in ``assets``.
"""

from serving.report.pages.comparison_page import write_comparison
from serving.report.run.page import write_report

__all__ = ["write_comparison", "write_report"]
