"""Batch-norm arithmetic, functional: moments and outputs come back, Python updates the buffers."""
