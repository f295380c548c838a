"""Score a file of rows: streamed, grouped by shared prefix, resumed after any interruption.

| module | in                                    | out                                            |
|--------|---------------------------------------|------------------------------------------------|
| source | a jsonl or parquet file               | its rows in scoring order, and a fingerprint   |
| log    | an output file, a run's fingerprint   | which rows are done; lines appended whole      |
| score  | a scorer and both of the above        | one line per row, a summary                    |
| stream | a scorer and lines as they come       | one document per row, at once                  |

Memory: an index of the rows (about 150 bytes each), one row, one prefix. A row's scores do not depend on which other
rows are in the file, or on where a run was interrupted: rows share the prefix, never a block of candidates.
"""

from vprm_runtime.datasets.parsed_row import BadRow
from vprm_runtime.datasets.score_file import BatchSummary, Progress, score_file
from vprm_runtime.datasets.source import RowSource, open_rows
from vprm_runtime.datasets.stream import score_stream

__all__ = ["BadRow", "BatchSummary", "Progress", "RowSource", "open_rows", "score_file", "score_stream"]
