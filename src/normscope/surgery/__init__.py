"""Model in, model out: what is taken from a network, put into it, or set in it."""
