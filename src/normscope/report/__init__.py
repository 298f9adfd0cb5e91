"""Records -> one HTML page and its figures; needs neither torch nor the code that measured."""

from normscope.report.board import render_measurements as render_measurements
from normscope.report.figure import figure_png as figure_png
from normscope.report.figure import figure_svg as figure_svg
from normscope.report.files import load_study as load_study
from normscope.report.files import report as report
from normscope.report.files import write_figures as write_figures
from normscope.report.page import render_study as render_study

__all__ = ["figure_png", "figure_svg", "load_study", "render_measurements", "render_study", "report", "write_figures"]
