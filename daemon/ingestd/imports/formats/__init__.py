"""Readers of file formats; each yields slices of text cells with the record number of every row."""
