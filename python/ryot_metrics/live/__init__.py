"""A service's pages, and what it does now: what the terminal view, the live page and the demo show.

Example:
    >>> before = Snapshot.parse('ryot_tokens_generated_total{token_type="completion"} 10', at=0.0)
    >>> after = Snapshot.parse('ryot_tokens_generated_total{token_type="completion"} 90', at=2.0)
    >>> Figures.between(before, after).tokens_per_second
    40.0
"""

from ryot_metrics.live.figures import Cache, Figures, Gpu, Quantiles
from ryot_metrics.live.names import RYOT, VLLM, Names
from ryot_metrics.live.snapshot import Snapshot, histogram_quantile

__all__ = [
    "RYOT",
    "VLLM",
    "Cache",
    "Figures",
    "Gpu",
    "Names",
    "Quantiles",
    "Snapshot",
    "histogram_quantile",
]
