"""The metrics client, with the names of `prometheus_client`.

Knows nothing of language models; their families stand in `REGISTRY` all the same, because that
is the page a service shows.

Example:
    >>> from ryot_metrics.client import CollectorRegistry, Gauge, generate_latest
    >>> registry = CollectorRegistry()
    >>> depth = Gauge("depth", "Jobs that wait.", ["queue"], registry=registry)
    >>> depth.labels(queue="mail").inc()
    >>> print(generate_latest(registry).decode(), end="")
    # HELP depth Jobs that wait.
    # TYPE depth gauge
    depth{queue="mail"} 1.0
"""

from ryot_metrics.client import (
    exposition,
    gc_collector,
    metrics,
    metrics_core,
    platform_collector,
    process_collector,
    registry,
)
from ryot_metrics.client.asgi import make_asgi_app
from ryot_metrics.client.collectors import register_default_collectors
from ryot_metrics.client.encoding import (
    CONTENT_TYPE_LATEST,
    CONTENT_TYPE_OPENMETRICS,
    CONTENT_TYPE_PLAIN_0_0_4,
    CONTENT_TYPE_PLAIN_1_0_0,
    choose_encoder,
    generate_latest,
    generate_openmetrics,
    generate_protobuf,
)
from ryot_metrics.client.families import Metric
from ryot_metrics.client.gateway import (
    delete_from_gateway,
    instance_ip_grouping_key,
    push_to_gateway,
    pushadd_to_gateway,
)
from ryot_metrics.client.gc_collector import GC_COLLECTOR, GCCollector
from ryot_metrics.client.metrics import (
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    Summary,
    disable_created_metrics,
    enable_created_metrics,
)
from ryot_metrics.client.platform_collector import PLATFORM_COLLECTOR, PlatformCollector
from ryot_metrics.client.process_collector import PROCESS_COLLECTOR, ProcessCollector
from ryot_metrics.client.registry import REGISTRY, CollectorRegistry, collect
from ryot_metrics.client.samples import Sample
from ryot_metrics.client.server import start_http_server
from ryot_metrics.client.textfile import write_to_textfile
from ryot_metrics.client.wsgi import MetricsHandler, make_wsgi_app, start_wsgi_server

__all__ = [
    "CONTENT_TYPE_LATEST",
    "CONTENT_TYPE_OPENMETRICS",
    "CONTENT_TYPE_PLAIN_0_0_4",
    "CONTENT_TYPE_PLAIN_1_0_0",
    "GC_COLLECTOR",
    "PLATFORM_COLLECTOR",
    "PROCESS_COLLECTOR",
    "REGISTRY",
    "CollectorRegistry",
    "Counter",
    "Enum",
    "GCCollector",
    "Gauge",
    "Histogram",
    "Info",
    "Metric",
    "MetricsHandler",
    "PlatformCollector",
    "ProcessCollector",
    "Sample",
    "Summary",
    "choose_encoder",
    "collect",
    "delete_from_gateway",
    "disable_created_metrics",
    "enable_created_metrics",
    "exposition",
    "gc_collector",
    "generate_latest",
    "generate_openmetrics",
    "generate_protobuf",
    "instance_ip_grouping_key",
    "make_asgi_app",
    "make_wsgi_app",
    "metrics",
    "metrics_core",
    "platform_collector",
    "process_collector",
    "push_to_gateway",
    "pushadd_to_gateway",
    "registry",
    "start_http_server",
    "start_wsgi_server",
    "write_to_textfile",
]

register_default_collectors(REGISTRY)
