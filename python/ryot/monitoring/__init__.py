"""The import path of the Ryot documents; everything lives in `ryot_metrics`."""

from ryot.monitoring.metrics import *  # noqa: F403
from ryot.monitoring.metrics import __all__ as __all__
