"""Who is to be erased: identifiers, given each time anew and never kept, and what the tables hold instead."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from ml_registry_pipelines.compliance.erasure.needles import SHORTEST, Needles, checked_identifier
from ml_registry_pipelines.compliance.erasure.words import is_word
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.names import checked_tenant
from ml_registry_pipelines.telemetry.identity import salted_hash
from ml_registry_pipelines.telemetry.ingestion import user_salt
from ml_registry_pipelines.telemetry.suppression import suppression_key


@dataclass(frozen=True)
class Subject:
    """A person in one tenant. `identifiers` are as the logs name them: a user id, an e-mail address."""

    tenant: str
    identifiers: tuple[str, ...] = field(repr=False)
    hashes: tuple[str, ...] = field(repr=False)
    pseudonym: str
    """Keyed hash of all identifiers: the same person gives the same one, and nobody can go back."""
    common: tuple[str, ...] = field(default=(), repr=False)
    """Identifiers that are words as well: replaced wherever they stand, they would take what is no person's."""

    @classmethod
    def of(
        cls, root: str, tenant: str, identifiers: Iterable[str], *, words: Collection[str] = ()
    ) -> Subject:
        """The subject with these identifiers in the storage below a root.

        Args:
            words: in lower case, what also means something else here, such as the name of a model.

        Raises:
            InvalidInput: there is no identifier, or one is none.
        """
        checked_tenant(tenant)
        given = tuple(sorted({checked_identifier(one) for one in identifiers}))
        if not given:
            raise InvalidInput("no identifier is given; name the person by a user id or an e-mail address")
        salt, key = user_salt(root), suppression_key(root)
        hashes = tuple(salted_hash(salt, tenant, one) for one in given)
        named = "".join(f"{len(part)}:{part}" for part in (tenant, *sorted(hashes)))
        pseudonym = hmac.new(key, b"subject" + named.encode(), "sha256").hexdigest()[:32]
        common = tuple(one for one in given if is_word(one, words))
        return cls(tenant, given, hashes, pseudonym, common)

    @cached_property
    def needles(self) -> Needles:
        """What the person is searched by: identifiers that are long enough, and all hashes."""
        texts = {
            f"identifier {number}": text
            for number, text in enumerate(self.identifiers, start=1)
            if len(text) >= SHORTEST and text not in self.common
        }
        texts |= {f"salted hash {number}": text for number, text in enumerate(self.hashes, start=1)}
        return Needles(texts)

    @property
    def by_hash_alone(self) -> int:
        """Identifiers that are searched by their hash alone: too short, or words as well."""
        return sum(len(text) < SHORTEST or text in self.common for text in self.identifiers)
