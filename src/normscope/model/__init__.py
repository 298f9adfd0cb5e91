"""What probes and surgery both need to know about a live model."""
