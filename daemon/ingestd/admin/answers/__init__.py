"""The shapes of what the API answers, for its reference; members may be added to them, callers pass over those they do not know."""
