"""Readers from files, prepared sets and embedded data to records: one module per format."""
