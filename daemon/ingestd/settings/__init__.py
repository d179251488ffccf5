"""How configuration is read: layers of TOML files and environment, merged, then validated whole.

Every problem is reported at once, with its place and, where one is near, a "did you mean". Rooms declare their part as
`Section` models in their own `settings.py`; `app.settings` joins them into one root model.
"""

from __future__ import annotations

from ingestd.settings.layers import ENV_PREFIX, Layers, read_layers
from ingestd.settings.validation import did_you_mean, examine, validate
from ingestd.settings.values import (
    ConfigPath,
    Duration,
    Name,
    Placed,
    Priority,
    Secret,
    Section,
    StrList,
    format_duration,
    located,
    parse_duration,
    parse_name,
    parse_priority,
    priority_name,
    split_list,
)

__all__ = [
    "ENV_PREFIX",
    "ConfigPath",
    "Duration",
    "Layers",
    "Name",
    "Placed",
    "Priority",
    "Secret",
    "Section",
    "StrList",
    "did_you_mean",
    "examine",
    "format_duration",
    "located",
    "parse_duration",
    "parse_name",
    "parse_priority",
    "priority_name",
    "read_layers",
    "split_list",
    "validate",
]
