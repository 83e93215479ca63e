"""The page in OpenMetrics, under the path of `prometheus_client.openmetrics.exposition`."""

from ryot_metrics.client.encoding import CONTENT_TYPE_OPENMETRICS as CONTENT_TYPE_LATEST
from ryot_metrics.client.encoding import generate_openmetrics as generate_latest

__all__ = ["CONTENT_TYPE_LATEST", "generate_latest"]
