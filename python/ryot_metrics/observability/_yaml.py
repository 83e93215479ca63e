"""YAML that a person reads: keys in their order, long texts as blocks. Needs the extra `ops`."""

from __future__ import annotations

from typing import Any

from ryot_metrics._extra import extra


def dump(data: Any) -> str:
    """The data as YAML.

    Raises:
        ModuleNotFoundError: PyYAML is not installed; the message names the pip command.
    """
    with extra("ops", "YAML"):
        import yaml

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)  # a list's dashes stand under their key

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, width=100, allow_unicode=True)
