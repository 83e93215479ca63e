"""OpenMetrics, under the module paths of `prometheus_client.openmetrics`."""
