"""Files, prepared sets and embedded data to records: one module a format."""
