"""The diagnosis: what batch norm does wrong in a network, and the fix."""
