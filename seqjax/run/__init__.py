"""The driver: what every experiment shares, once."""
