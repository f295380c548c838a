"""One self-contained HTML file that people judge by: figures, charts, tables, and rows with steps coloured by score.

| module   | in                                  | out                                                     |
|----------|-------------------------------------|---------------------------------------------------------|
| charts   | series of points                    | inline SVG                                              |
| images | an image and the tiling             | a JPEG data URI and the grid that the model saw         |
| page     | a `Page` of plain values            | HTML; every text escaped, nothing loaded from elsewhere |

`page` knows nothing of scorers or metrics, so other tools can fill it.
"""

from vprm_report.charts import (
    COLOURS,
    Axis,
    Bar,
    Series,
    bar_chart,
    column_chart,
    line_chart,
    percent_axis,
    reliability_chart,
)
from vprm_report.images import page_image
from vprm_report.page import Candidate, Card, Chart, Page, PageImage, RowView, Step, Table, html_from_page

__all__ = [
    "COLOURS",
    "Axis",
    "Bar",
    "Candidate",
    "Card",
    "Chart",
    "Page",
    "PageImage",
    "RowView",
    "Series",
    "Step",
    "Table",
    "bar_chart",
    "column_chart",
    "html_from_page",
    "line_chart",
    "page_image",
    "percent_axis",
    "reliability_chart",
]
