"""YAML as people configure with it: what is written twice, or no value at all, is an error at its line.

What a file may say is up to the rooms that read one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml


def strict_loader(*, texts: bool) -> type[yaml.BaseLoader] | type[yaml.SafeLoader]:
    """A loader for `yaml.load` that raises nothing but `yaml.YAMLError`.

    Args:
        texts: every scalar is the text that is written; otherwise numbers, truths and null are
            what they are in YAML, and only times stay text.
    """
    import yaml

    base: Any = yaml.BaseLoader if texts else yaml.SafeLoader

    class Loader(base):  # type: ignore[misc]
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for key in keys:
                if keys.count(key) > 1:
                    raise _fault(f"{key!r} stands twice in one mapping", node)
            made: dict[Any, Any] = super().construct_mapping(node, deep)
            return made

        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except (ValueError, OverflowError) as failure:
                raise _fault(f"{node.value!r:.80} is no value: {failure}", node) from None

        def get_single_data(self) -> Any:
            try:
                return super().get_single_data()
            except RecursionError:
                raise _fault("it is nested too deeply", None) from None

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in base.yaml_implicit_resolvers.items()
    }
    return Loader


def _fault(problem: str, node: yaml.Node | None) -> yaml.MarkedYAMLError:
    import yaml

    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark if node else None)
