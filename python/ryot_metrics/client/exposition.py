"""Pages and the ways they leave the process, under the path of `prometheus_client.exposition`."""

from ryot_metrics.client.answer import gzip_accepted
from ryot_metrics.client.asgi import make_asgi_app
from ryot_metrics.client.encoding import (
    CONTENT_TYPE_LATEST,
    CONTENT_TYPE_PLAIN_0_0_4,
    CONTENT_TYPE_PLAIN_1_0_0,
    choose_encoder,
    generate_latest,
)
from ryot_metrics.client.gateway import (
    CompressionType,
    delete_from_gateway,
    instance_ip_grouping_key,
    push_to_gateway,
    pushadd_to_gateway,
)
from ryot_metrics.client.push_handlers import (
    basic_auth_handler,
    default_handler,
    passthrough_redirect_handler,
    tls_auth_handler,
)
from ryot_metrics.client.server import start_http_server
from ryot_metrics.client.textfile import write_to_textfile
from ryot_metrics.client.wsgi import (
    MetricsHandler,
    ThreadingWSGIServer,
    make_wsgi_app,
    start_wsgi_server,
)

__all__ = [
    "CONTENT_TYPE_LATEST",
    "CONTENT_TYPE_PLAIN_0_0_4",
    "CONTENT_TYPE_PLAIN_1_0_0",
    "CompressionType",
    "MetricsHandler",
    "ThreadingWSGIServer",
    "basic_auth_handler",
    "choose_encoder",
    "default_handler",
    "delete_from_gateway",
    "generate_latest",
    "gzip_accepted",
    "instance_ip_grouping_key",
    "make_asgi_app",
    "make_wsgi_app",
    "passthrough_redirect_handler",
    "push_to_gateway",
    "pushadd_to_gateway",
    "start_http_server",
    "start_wsgi_server",
    "tls_auth_handler",
    "write_to_textfile",
]
