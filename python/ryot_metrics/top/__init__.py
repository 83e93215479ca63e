"""`ryot-metrics top`: a service's live figures in the terminal.

`reader` turns pages into figures, `view` draws them, `run` holds the loop and the command's forms.
The arithmetic is `ryot_metrics.live`'s.
"""
