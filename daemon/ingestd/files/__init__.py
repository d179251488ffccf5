"""Received bytes: copied into a local store while hashed, and known by what they are."""
