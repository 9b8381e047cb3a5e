"""Tests; their layout mirrors the packages."""
