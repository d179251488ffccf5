"""Daemons with one safeguard removed: `[daemon] handlers` names one, and the test that guards it must fail."""
