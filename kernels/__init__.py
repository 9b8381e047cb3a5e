"""CIELAB conversion."""
