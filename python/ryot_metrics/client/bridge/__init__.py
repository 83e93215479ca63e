"""Bridges to other systems, under the module paths of `prometheus_client.bridge`."""
