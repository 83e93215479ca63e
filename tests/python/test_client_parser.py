"""The two parsers, against those of `prometheus_client`, on written, random and damaged pages."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import openmetrics as _their_openmetrics  # noqa: F401
from prometheus_client import parser as their_text
from prometheus_client.openmetrics import parser as their_openmetrics

from ryot_metrics import client
from ryot_metrics.client import parser as our_text
from ryot_metrics.client.openmetrics import parser as our_openmetrics
from test_client import fill

NATIVE = "{count:24,sum:100.5,schema:0,zero_threshold:0.001,zero_count:4"
SPANS = "positive_spans:[0:2,1:2],negative_spans:[0:2,1:2]"
DELTAS = "positive_deltas:[2,1,-3,3],negative_deltas:[2,1,-2,3]"

OPENMETRICS = [
    '# TYPE a counter\n# HELP a help\na_total{foo="b\\n\\\\\\"r"} 1\na_created 12.5\n# EOF\n',
    "# TYPE a gauge\n# UNIT a_seconds seconds\n# EOF\n",
    "# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds 1 12.000000001\n# EOF\n",
    '# TYPE a summary\na_count 1\na_sum 2\na{quantile="0.5"} 0.7\n# EOF\n',
    '# TYPE a histogram\na_bucket{le="1.0"} 0\na_bucket{le="+Inf"} 3\na_count 3\na_sum 2\n# EOF\n',
    '# TYPE a histogram\na_bucket{le="-1"} 0\na_bucket{le="+Inf"} 3\n# EOF\n',
    '# TYPE a gaugehistogram\na_bucket{le="+Inf"} 3\na_gcount 3\na_gsum -2\n# EOF\n',
    '# TYPE a info\na_info{foo="bar"} 1\na_info{foo="baz"} 1\n# EOF\n',
    '# TYPE a stateset\na{a="on"} 1\na{a="off"} 0\n# EOF\n',
    '# TYPE a counter\na_total 1 # {trace="x y"} 0.5 12.25\na_total{b="c"} 1 1 # {} 2\n# EOF\n',
    '# TYPE a histogram\na_bucket{le="+Inf"} 3 # {a="} # {"} 0.5\n# EOF\n',
    '# TYPE "a.b" gauge\n# HELP "a.b" x\n{"a.b"} 1\n{"a.b","c d"="e"} 2\n# EOF\n',
    "a 1 1\na 2 1\na 2 2\n# EOF\n",
    'b{x="1"} 1 2\nb{x="1"} 1 1\n# EOF\n',
    'b{x="1"} 1\nb{x="2"} 1\nb{x="1"} 1\n# EOF\n',
    f"# TYPE a histogram\na {NATIVE},{SPANS},{DELTAS}}}\n# EOF\n",
    f'# TYPE a histogram\na{{foo="{{"}} {NATIVE}}}\na_bucket{{le="+Inf"}} 3\n# EOF\n',
    "a nan\na -Inf\na +Inf\na 1e5\na 0x1\n# EOF\n",
    "# EOF\n",
    "",
    "\n# EOF\n",
    "# TYPE a untyped\n# EOF\n",
    "# TYPE a counter\na 1\n# EOF\n",
]
TEXT = [
    '# TYPE a counter\n# HELP a help\na{foo="b\\n\\\\\\"r"} 1\n',
    '# HELP a_total help \\n with\\\\slash "quote\n# TYPE a_total counter\na_total 1\na_created 2\n',
    '#  TYPE   a  summary \n a_count\t1 \na_sum 2 1234\na { quantile = "0.5" , } 0.7\n',
    '# TYPE a histogram\na_bucket{le="1"} 0\na_bucket{le="+Inf"} 3\na_count 3\na_sum 2\n',
    "# a comment\n#\n# HELP\n# TYPE a\n",
    "# HELP a\n# TYPE a gauge\n\n\na 1\n# TYPE b gauge\nc 1\nb 1\n",
    '# TYPE "a.b" gauge\n{"a.b"} 1\n{"a.b","c d"="e"} 2 5\n',
    'a{b="c",d="",} 1\na{,b="c"} 1\na{b=,c="d"} 1\na{} +Inf\na nan\n',
    'a{b="}"} 1 # {x="y"} 2\na 1 2 3\n',
]
PIECES = [" ", "\t", "\n", '"', "\\", "{", "}", ",", "=", "#", " # ", "a", "_total", "1", "-1", "le"]
PIECES += ["NaN", "+Inf", "1.5", "_", "# EOF\n", "# TYPE a ", 'x="y"', "__x", "é", "\\n", '\\"', ":"]


def read(parse, page):
    """The families, or None where the page is rejected."""
    try:
        return [
            (*(getattr(family, field) for field in ("name", "documentation", "type", "unit")),)
            + (repr(family.samples),)
            for family in parse(page)
        ]
    except (ValueError, LookupError, AttributeError, TypeError):  # theirs lets all of them out
        return None


def damaged(pages):
    """Pages with some pieces put in, taken out or exchanged."""
    edit = st.tuples(st.floats(0, 1), st.integers(0, 3), st.sampled_from(["", *PIECES]))

    def apply(page, edits):
        for place, length, piece in edits:
            start = round(place * len(page))
            page = page[:start] + piece + page[start + length :]
        return page

    return st.builds(apply, st.sampled_from(pages), st.lists(edit, min_size=1, max_size=3))
