"""Reports: one DataFrame made from a journal, and every format rendered from it."""
