"""The import path of the Ryot documents; everything lives in `ryot_metrics`."""
