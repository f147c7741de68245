"""What `logs.py` measures, as rows of the report: ingest beside COPY, pages, searches."""

import statistics

try:
    from . import logs
except ImportError:  # not every checkout has it
    logs = None

# A target that names these sizes is judged at these sizes only.
FULL_INGEST_LINES, FULL_PAGE_LINES, FULL_SEARCH_LINES = 100_000, 1_000_000, 5_000_000


def rows(connection, ingest_lines, page_lines, search_lines):
    """Keyword arguments of rows, as they come.

    :param page_lines: of the run whose pages are read
    :param search_lines: of all runs together, among which words are searched
    """
    if logs is None:
        yield {"name": "ingest, page, search", "value": None, "unit": "",
               "note": "benchmarks/logs.py is missing"}  # fmt: skip
        return
    yield from _ingest(logs.ingest(connection, lines=ingest_lines))
    yield from _search(
        logs.search(connection, page_lines=page_lines, search_lines=search_lines),
        page_lines >= FULL_PAGE_LINES,
        search_lines >= FULL_SEARCH_LINES,
    )


def _ingest(found):
    def rate(name):
        return statistics.median(figures[name] for figures in found["repetitions"])

    def ratio(name, other):
        return statistics.median(figures[name] / figures[other] for figures in found["repetitions"])

    copy, in_batches = "COPY, one statement, unindexed copy", "COPY, batches of 1,000"
    yield {"name": "append_run_logs, until all is indexed", "value": rate("indexed"),
           "unit": "lines/s", "ratio": ratio("indexed", "copy"), "ratio_of": copy,
           "target": "log_ingest" if found["lines"] >= FULL_INGEST_LINES else "",
           "note": f"{found['lines']:,} lines of {found['bytes_per_line']:.0f} bytes;"
                   " a second connection indexes"}  # fmt: skip
    yield {"name": "the same, beside batches", "value": rate("indexed"), "unit": "lines/s",
           "ratio": ratio("indexed", "copy_in_batches"), "ratio_of": in_batches}  # fmt: skip
    yield {"name": "the same, until all is stored", "value": rate("stored"), "unit": "lines/s",
           "ratio": ratio("stored", "copy"), "ratio_of": copy,
           "note": "and found by searches"}  # fmt: skip
    yield {"name": "append_run_logs, then index_run_logs, one connection",
           "value": rate("in_turn"), "unit": "lines/s", "ratio": ratio("in_turn", "copy"),
           "ratio_of": copy, "note": "the work of both together"}  # fmt: skip
    yield {"name": copy, "value": rate("copy"), "unit": "lines/s"}
    yield {"name": in_batches, "value": rate("copy_in_batches"), "unit": "lines/s"}


def _search(found, full_pages, full_search):
    slowest = max(found["pages"].values(), key=lambda page: page["ms"])
    for after, page in found["pages"].items():
        yield {"name": f"page of {page['rows']:,} lines behind line {after:,}", "value": page["ms"],
               "unit": "ms", "note": f"slowest {page['worst']:.1f} ms",
               "target": "log_page" if full_pages and page is slowest else ""}  # fmt: skip
    for name, search in found["searches"].items():
        yield {"name": f"search: {name}", "value": search["ms"], "unit": "ms",
               "note": f"{search['rows']:,} found in {found['lines']:,} lines, slowest"
                       f" {search['worst']:.1f} ms",
               "target": "log_search" if full_search and name == "rare word" else ""}  # fmt: skip
