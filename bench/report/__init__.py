"""From journals to tables, views and comparisons."""

from typing import Any

Record = dict[str, Any]
"""One line of a DataFrame, by column."""
