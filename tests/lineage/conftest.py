"""The fixtures of the registry's tests."""

from tests.registry.conftest import log, registry, relationships, tenant, things, tracker

__all__ = ["log", "registry", "relationships", "tenant", "things", "tracker"]
