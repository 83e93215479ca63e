"""What a fleet is called where nobody says otherwise."""

from __future__ import annotations

NAMESPACE = "dynemo"
"""What all components of a deployment share."""
COMPONENT = "backend"
"""Whose workers they are."""
ENDPOINT = "generate"
"""What the workers serve."""
PUSH_JOB = "dynamo_push_metrics"
"""The label `job` of what is pushed."""
NATS = "nats://127.0.0.1:4222"
"""The NATS server."""
