"""Signatures of what versions are made of, in the format of OpenSSF model signing, by an offline key.

A signature is a Sigstore bundle (v0.3) around an in-toto statement with the SHA-256 of each file; its
subject is the digest of the registry's manifest, so that it says which artifact of which version was
signed. Keys are on the curve P-256 and lie in files; nothing here talks to a certificate authority or
a transparency log. Which public keys are trusted is configuration: `MLREG_TRUSTED_KEYS`.

Format: https://github.com/ossf/model-signing-spec
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.artifacts import (
    ArtifactChanged,
    ArtifactElsewhere,
    ArtifactStore,
    File,
)
from ml_registry_pipelines.registry.content import uri_name
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import Artifact, Version, VersionArtifact, artifacts_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from model_signing.hashing import Config
    from model_signing.manifest import Manifest

KIND = "signature"
"""Kind of the artifacts that are signatures."""
TRUSTED = "MLREG_TRUSTED_KEYS"
_SUBJECT = "sha256:"
_CURVE = "secp256r1"


class SignatureError(MlregError):
    """A key or a signature cannot be used."""


@dataclass(frozen=True)
class Signed:
    """What was found out about the signatures of one artifact of a version.

    `key` is the SHA-256 of the trusted public key that it was verified with; empty: none did, and
    `problem` says why.
    """

    kind: str
    digest: str
    key: str = ""
    problem: str = ""


def make_signing_keys(private: Path, public: Path, *, password: str | None = None) -> None:
    """Write a new P-256 key pair as PEM files; the private one belongs on no machine of the platform.

    Raises:
        SignatureError: a file is there already.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    encryption: form.KeySerializationEncryption = form.NoEncryption()
    if password:
        encryption = form.BestAvailableEncryption(password.encode())
    texts = {
        private: key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, encryption),
        public: key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo),
    }
    for path in texts:
        if path.exists():
            raise SignatureError(f"{path} is there already; keys are not overwritten")
    for path, data in texts.items():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(data)


def trusted_keys(given: str | None = None) -> tuple[Path, ...]:
    """The files of public keys that are trusted: those that are named, or all `.pem` files of a folder.

    Args:
        given: files and folders, separated as in PATH; by default the setting MLREG_TRUSTED_KEYS.

    Raises:
        SignatureError: there is none, or one is no public P-256 key.
    """
    text = os.environ.get(TRUSTED, "") if given is None else given
    found: list[Path] = []
    for name in filter(None, (part.strip() for part in text.split(os.pathsep))):
        place = Path(name).expanduser()
        if not place.exists():
            raise SignatureError(f"{place} is named among the trusted keys and is not there")
        found += sorted(place.glob("*.pem")) if place.is_dir() else [place]
    if not found:
        raise SignatureError(f"no key is trusted; name public keys, or a folder of them, in {TRUSTED}")
    for path in found:
        _public(path)
    return tuple(found)


def sign_version(
    models: ModelRegistry, reference: str, key: Path, *, password: str | None = None
) -> tuple[Version, int]:
    """Sign all that a version is made of, and add the signatures to it; the version, and how many were added.

    What the key has signed before is not signed again. The bytes are verified first, so that nothing
    is signed that was changed.

    Raises:
        SignatureError: the key is no private P-256 key, or its password is wrong.
        ArtifactChanged: names the file that was changed.
    """
    public = _private(key, password).public_key()
    version = models.get_version(reference)
    bundles = _bundles(models.artifacts, version)
    added = 0
    with tempfile.TemporaryDirectory(prefix="mlreg-sign-") as folder:
        own = Path(folder) / "public.pem"
        own.write_bytes(_spelled(public))
        for artifact in _signable(version):
            listed = _listed(models.artifacts, artifact)
            _verify_bytes(models.artifacts, version, artifact)
            if _verified(artifact, listed, bundles, [own]).key:
                continue
            bundle = Path(folder) / f"{artifact.kind}-{artifact.digest[:12]}.sig"
            _signing(key, password, artifact.digest, listed, bundle)
            version = models.add_artifact(version.id, Artifact(KIND, bundle))
            added += 1
    return version, added


def verify_version_signatures(
    store: ArtifactStore, version: Version, keys: Sequence[Path], *, bytes_too: bool = True
) -> list[Signed]:
    """Verify each artifact of a version against its signatures by trusted keys, its content first.

    Args:
        bytes_too: read all files and compare their digests as well.

    Raises:
        ArtifactError: the store cannot be read. What was changed in it is a problem of its artifact,
            which names the file.
    """
    bundles = _bundles(store, version)
    found = []
    for artifact in _signable(version):
        try:
            listed = _listed(store, artifact)
            if bytes_too:
                _verify_bytes(store, version, artifact)
        except ArtifactChanged as failure:
            found.append(Signed(artifact.kind, artifact.digest, problem=str(failure)))
            continue
        found.append(_verified(artifact, listed, bundles, keys))
    return found


def _verified(
    artifact: VersionArtifact, listed: Sequence[File], bundles: Sequence[bytes], keys: Sequence[Path]
) -> Signed:
    problem = "it is not signed"
    for data in bundles:
        if _subject(data)[0] != artifact.digest:
            continue
        problem = "it is signed, and by no trusted key"
        for key in keys:
            wrong = _verifying(key, artifact.digest, listed, data)
            if not wrong:
                return Signed(artifact.kind, artifact.digest, key=_hint(_public(key)))
            if "Signature mismatch:" in wrong:
                problem = wrong
    return Signed(artifact.kind, artifact.digest, problem=problem)


# -- the format -------------------------------------------------------------------------------------


def _signing(key: Path, password: str | None, digest: str, listed: Sequence[File], target: Path) -> None:
    from model_signing.signing import Config

    config = Config().set_hashing_config(_hashing(digest, listed))  # type: ignore[no-untyped-call]
    # The library hands the password on as it is, and a key's password is bytes.
    config.use_elliptic_key_signer(private_key=key, password=password and password.encode())  # type: ignore[arg-type]
    config.sign(Path(digest), target)


def _verifying(key: Path, digest: str, listed: Sequence[File], data: bytes) -> str:
    """Why a bundle does not vouch for the files; empty: it does."""
    from model_signing.verifying import Config

    with tempfile.NamedTemporaryFile(suffix=".sig") as bundle:
        bundle.write(data)
        bundle.flush()
        config = Config().set_hashing_config(_hashing(digest, listed))  # type: ignore[no-untyped-call]
        config.use_elliptic_key_verifier(public_key=key)
        try:
            config.verify(Path(digest), Path(bundle.name))
        except Exception as failure:  # noqa: BLE001 - anybody can write a bundle; whatever it causes, it vouches for nothing
            return f"the signature does not hold: {failure}"
    # The library compares files, and takes the subject, which is signed as well, for a mere name.
    return "" if _subject(data)[0] == digest else "the signature is of another artifact"


def _hashing(digest: str, listed: Sequence[File]) -> Config:
    """What the library takes for its own reading of a folder: files and digests as the registry lists them."""
    from model_signing import hashing, manifest
    from model_signing._hashing.hashing import Digest  # the library has no public name for it

    items = [
        manifest.FileManifestItem(
            path=PurePosixPath(f.path), digest=Digest("sha256", bytes.fromhex(f.sha256))
        )
        for f in listed
    ]
    form = manifest.SerializationType.from_args(
        {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    )

    class Listed(hashing.Config):
        def hash(self, *_: Any, **_more: Any) -> Manifest:
            return manifest.Manifest(f"{_SUBJECT}{digest}", items, form)

        def add_ignored_paths(self, **_: Any) -> None:
            """A signature cannot ask for files to be overlooked."""

    return Listed()  # type: ignore[no-untyped-call]


def _subject(data: bytes) -> tuple[str, str]:
    """Digest of the manifest that a bundle says to be about, and the hint of its key; not verified."""
    try:
        bundle = json.loads(data)
        payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        name = str(payload["subject"][0]["name"])
        hint = str(bundle["verificationMaterial"]["publicKey"]["hint"])
    except (ValueError, KeyError, TypeError, IndexError):
        return "", ""
    return name.removeprefix(_SUBJECT), hint


def _bundles(store: ArtifactStore, version: Version) -> list[bytes]:
    """The signatures of a version. One that was changed in the store vouches for nothing."""
    found = []
    for digest in _of_kind(version, KIND):
        with suppress(ArtifactChanged):
            found += [data for _, data in read_artifact(store, digest)]
    return found


# -- what is signed -----------------------------------------------------------------------------------


def _signable(version: Version) -> list[VersionArtifact]:
    return [artifact for artifact in artifacts_of(version) if artifact.kind != KIND]


def _of_kind(version: Version, kind: str) -> list[str]:
    return [artifact.digest for artifact in artifacts_of(version) if artifact.kind == kind]


def _listed(store: ArtifactStore, artifact: VersionArtifact) -> list[File]:
    """The files of an artifact; of content that lies elsewhere, what its manifest says of it."""
    manifest = store.manifest(artifact.digest)
    if manifest["form"] == "uri":
        return [File(uri_name(manifest["uri"]), manifest["sha256"], manifest["size"] or 0)]
    if manifest["form"] == "hosted":
        return [File("manifest.json", artifact.digest, 0)]
    return store.files(artifact.digest)


def _verify_bytes(store: ArtifactStore, version: Version, artifact: VersionArtifact) -> None:
    try:
        store.verify(artifact.digest)
    except ArtifactElsewhere:
        return  # Its manifest is signed, with the digest that the content has to have.
    except ArtifactChanged as failure:
        raise ArtifactChanged(f"{version.reference}: {failure}") from failure


def read_artifact(store: ArtifactStore, digest: str) -> list[tuple[str, bytes]]:
    """Paths and bytes of an artifact that is small enough to be held, verified."""
    with tempfile.TemporaryDirectory(prefix="mlreg-read-") as folder:
        return [
            (str(f.path.relative_to(folder)), f.path.read_bytes())
            for f in store.download(digest, Path(folder))
        ]


# -- keys -----------------------------------------------------------------------------------------------


def _private(path: Path, password: str | None) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password.encode() if password else None)
    except OSError as failure:
        raise SignatureError(f"the key {path} cannot be read: {failure.strerror}") from None
    except TypeError:
        raise SignatureError(f"the key {path} {'has no' if password else 'needs a'} password") from None
    except ValueError:
        raise SignatureError(f"{path} is no private key in PEM, or its password is another") from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name != _CURVE:
        raise SignatureError(f"{path} is no key on the curve P-256; `mlreg sign --make-keys` makes one")
    return key


def _public(path: Path) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as failure:
        raise SignatureError(f"the key {path} cannot be read: {failure.strerror}") from None
    except ValueError:
        raise SignatureError(f"{path} is no public key in PEM") from None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != _CURVE:
        raise SignatureError(f"{path} is no public key on the curve P-256")
    return key


def _hint(key: EllipticCurvePublicKey) -> str:
    """By what a bundle says which key it was made with."""
    return sha256(_spelled(key)).hexdigest()


def _spelled(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    return key.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
