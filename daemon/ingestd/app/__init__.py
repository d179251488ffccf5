"""Composition: the only floor that knows every room. It builds them, starts and stops them in order, and joins what they offer."""
