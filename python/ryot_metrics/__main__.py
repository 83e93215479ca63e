"""`python -m ryot_metrics`: the same as the command `ryot-metrics`."""

from ryot_metrics.cli import main

raise SystemExit(main())
