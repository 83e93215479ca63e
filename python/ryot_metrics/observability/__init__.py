"""What stands around the metrics: rules, dashboards, scrape configurations, queries.

All of them are generated, with names from the catalogue and numbers from `Thresholds`; they read
the profile `ryot`. `ryot-metrics rules`, `dashboard`, `scrape-config` and `queries` print them.
"""

from ryot_metrics.observability.dashboard import dashboard
from ryot_metrics.observability.queries import QUERIES, Query
from ryot_metrics.observability.rules import rules
from ryot_metrics.observability.scrape_config import Target, scrape_config
from ryot_metrics.observability.thresholds import Thresholds

__all__ = ["QUERIES", "Query", "Target", "Thresholds", "dashboard", "rules", "scrape_config"]
