"""Files that are hostile, change, or do not fit; uploads that are killed; disks that are full."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import copying
from ml_registry_pipelines.registry.artifacts import (
    ArtifactChanged,
    ArtifactError,
    ArtifactRefused,
    ArtifactStore,
    checked_path,
)
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from tests.examples import examples
from tests.registry.conftest import ACTOR

MB = 1 << 20
SPARSE = int(os.environ.get("MLREG_TEST_SPARSE_MB", "256")) << 20
PERMISSION = "permission is denied; check who owns the folder"


@pytest.fixture
def store(tmp_path: Path):
    with Lake(str(tmp_path / "lake")) as lake:
        yield ArtifactStore(lake)


def left_in(tmp_path: Path) -> list[str]:
    """Every file below the store."""
    root = tmp_path / "lake" / "artifacts"
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def script(code: str, *arguments: object, inside: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run code with a store at hand in a process of its own."""
    prelude = """
        import os, signal, sys
        from pathlib import Path
        from ml_registry_pipelines.errors import MlregError
        from ml_registry_pipelines.lake.lake import Lake
        from ml_registry_pipelines.registry import copying
        from ml_registry_pipelines.registry.artifacts import ArtifactStore
        store = ArtifactStore(Lake(sys.argv[1]))
    """
    return subprocess.run(
        [
            *inside,
            sys.executable,
            "-c",
            textwrap.dedent(prelude) + textwrap.dedent(code),
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


# -- killed ----------------------------------------------------------------------------------


def test_a_killed_upload_leaves_no_artifact_and_goes_on_where_it_was(store, tmp_path):
    weights = tmp_path / "w.bin"
    weights.write_bytes(os.urandom(10 * MB))
    done = script(
        """
        copying.STRETCH = 1 << 20
        copy, copied = copying._copy_range, []
        def killed_after_six(*arguments):
            if len(copied) == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            copied.append(1)
            return copy(*arguments)
        copying._copy_range = killed_after_six
        store.store(sys.argv[2])
        """,
        tmp_path / "lake",
        weights,
    )
    assert done.returncode == -signal.SIGKILL
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert left_in(tmp_path) == [f"incoming/{sha256}.part"]
    part = tmp_path / "lake" / "artifacts" / "incoming" / f"{sha256}.part"
    assert part.stat().st_size == 6 * MB
    copied: list[int] = []
    copy = copying._copy_range

    def counting(source: int, target: int, count: int, offset: int) -> int:
        copied.append(offset)
        return copy(source, target, count, offset)

    copying._copy_range = counting
    try:
        stored = store.store(weights)
    finally:
        copying._copy_range = copy
    assert copied[0] == 6 * MB
    store.verify(stored.digest)
    assert not part.exists()


WORKER = """
import os, sys
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import copying
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
copying.STRETCH = 1 << 16  # Many moments within a copy.
root, folder = sys.argv[1:]
registry = ModelRegistry(Log(Lake(root)), actor=Actor("p1"))
registry.list_models()
print("ready", flush=True)
while True:
    for number in range(5):
        with open(f"{folder}/{number}", "wb") as stream:
            stream.write(os.urandom(1_000_000))
    registry.create_model_version("m", folder)
"""


@pytest.mark.kill
def test_uploads_killed_at_random_moments_leave_whole_versions_and_no_wrong_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as log:
        ModelRegistry(log, actor=ACTOR).register_model("m")
    chance = random.Random(os.environ.get("MLREG_TEST_SEED"))
    for _ in range(int(os.environ.get("MLREG_TEST_KILLS", "1"))):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "lake"), str(tmp_path / "folder")],
            stdout=subprocess.PIPE,
        )
        assert worker.stdout
        assert worker.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0.01, 0.6))
        worker.kill()
        worker.communicate()
    for blob in (tmp_path / "lake" / "artifacts" / "blobs").glob("*/*"):
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        versions = registry.list_versions("m")
        assert [v.number for v in versions] == list(range(1, len(versions) + 1))
        for version in versions:
            registry.verify_version(version.reference)
        registry.create_model_version("m", tmp_path / "folder")
        registry.verify_version("m@latest")


def test_what_was_left_over_is_not_trusted(store, tmp_path):
    weights = tmp_path / "w.bin"
    weights.write_bytes(b"right" * 1000)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    incoming = tmp_path / "lake" / "artifacts" / "incoming"
    incoming.mkdir(parents=True)
    for left in (b"wrong" * 100, b"wrong" * 5000):
        (incoming / f"{sha256}.part").write_bytes(left)
        store.verify(store.store(weights).digest)
        (tmp_path / "lake" / "artifacts" / "blobs" / sha256[:2] / sha256).unlink()


@settings(deadline=None, max_examples=examples(40))
@given(content=st.binary(max_size=300), left=st.binary(max_size=400), beginning=st.integers(0, 300))
def test_whatever_was_left_over_the_copy_has_the_right_bytes(content, left, beginning):
    with tempfile.TemporaryDirectory() as folder:
        source, target, part = (Path(folder, name) for name in ("source", "target", "part"))
        source.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        for there in (left, content[:beginning], content[:beginning] + left):
            part.write_bytes(there)
            target.unlink(missing_ok=True)
            with copying.opened(source) as descriptor:
                fill = copying.from_file(descriptor, len(content))
                copying.receive(target, part, sha256=sha256, size=len(content), fill=fill)
            assert target.read_bytes() == content
            part.write_bytes(there)
            with copying.opened(source) as descriptor:
                fill = copying.from_file(descriptor, len(content))
                with pytest.raises(copying.WrongBytes):
                    copying.receive(target, part, sha256="0" * 64, size=len(content), fill=fill)
            assert target.read_bytes() == content
            assert not part.exists()


def test_a_killed_download_goes_on_and_the_target_is_whole_or_not_there(store, tmp_path):
    weights = tmp_path / "w.bin"
    weights.write_bytes(os.urandom(4 * MB))
    stored = store.store(weights)
    done = script(
        """
        copying.STRETCH = 1 << 20
        sync = os.fsync
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        store.download(sys.argv[2], Path(sys.argv[3]))
        """,
        tmp_path / "lake",
        stored.digest,
        tmp_path / "out",
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "w.bin").exists()
    store.download(stored.digest, tmp_path / "out")
    assert (tmp_path / "out" / "w.bin").read_bytes() == weights.read_bytes()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["w.bin"]


def test_several_processes_that_store_the_same_file_store_it_once(tmp_path):
    weights = tmp_path / "w.bin"
    weights.write_bytes(os.urandom(5 * MB))
    code = "from ml_registry_pipelines.lake.lake import Lake\n"
    code += "from ml_registry_pipelines.registry.artifacts import ArtifactStore\n"
    code += "import sys; print(ArtifactStore(Lake(sys.argv[1])).store(sys.argv[2]).digest)"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "lake"), str(weights)], stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    assert len({process.communicate()[0] for process in started}) == 1
    assert all(process.returncode == 0 for process in started)
    assert len(left_in(tmp_path)) == 2


# -- files that are not what they seem --------------------------------------------------------


def test_a_file_that_changes_while_it_is_stored_is_refused_and_leaves_nothing(store, tmp_path, monkeypatch):
    weights = tmp_path / "w.bin"
    weights.write_bytes(b"a" * 2 * MB)
    name, hashing = "ml_registry_pipelines.registry.artifacts.sha256_of", copying.sha256_of

    def then_changed(path: Path) -> str:
        found = hashing(path)
        with path.open("r+b") as stream:
            stream.write(b"b")
        return found

    monkeypatch.setattr(name, then_changed)
    with pytest.raises(ArtifactRefused, match=r"w\.bin changed while it was stored"):
        store.store(weights)
    assert left_in(tmp_path) == []

    def then_longer(path: Path) -> str:
        found = hashing(path)
        with path.open("ab") as stream:
            stream.write(b"b")
        return found

    monkeypatch.setattr(name, then_longer)
    with pytest.raises(ArtifactRefused, match="changed while it was stored"):
        store.store(weights)
    assert [name for name in left_in(tmp_path) if name.startswith("manifests")] == []


@pytest.mark.soak
def test_a_large_file_with_holes_is_stored_without_filling_them(store, tmp_path):
    sparse = tmp_path / "sparse.bin"
    with sparse.open("wb") as stream:
        stream.truncate(SPARSE)
        stream.seek(SPARSE // 2)
        stream.write(b"an island")
    stored = store.store(sparse)
    assert stored.size == SPARSE
    (blob,) = (p for p in (tmp_path / "lake").rglob("*") if p.is_file() and p.stat().st_size == SPARSE)
    assert blob.stat().st_blocks * 512 < MB
    with blob.open("rb") as stream:
        stream.seek(SPARSE // 2)
        assert stream.read(9) == b"an island"


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "", "a", "b\\c", "/", "é"])).map("/".join))
def test_a_path_is_refused_or_stays_inside(path):
    try:
        accepted = checked_path(path)
    except ArtifactRefused:
        return
    assert os.path.normpath(f"/root/{accepted}") == f"/root/{accepted}"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (b"line\nbreak", "cannot be shown"),
        (b"\xff\xfe.bin", "is no UTF-8"),
        (b"back\\slash", "no path inside"),
    ],
)
def test_a_name_that_no_manifest_should_hold_is_refused(store, tmp_path, name, why):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / os.fsdecode(name)).write_bytes(b"x")
    with pytest.raises(ArtifactRefused, match=why) as told:
        store.store(tmp_path / "folder")
    str(told.value).encode()
    assert left_in(tmp_path) == []


def test_names_in_any_script_with_dots_and_spaces_come_back_as_they_were(store, tmp_path):
    names = ["größe", "模型 v1.bin", "..hidden", "a b", "e\u0301", "\u00e9", "🎲", "x" * 255]
    (tmp_path / "folder").mkdir()
    for number, name in enumerate(names):
        (tmp_path / "folder" / name).write_text(str(number))
    stored = store.store(tmp_path / "folder")
    store.download(stored.digest, tmp_path / "out")
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == {
        name: str(number) for number, name in enumerate(names)
    }


def test_a_folder_deeper_than_any_path_is_refused_in_one_sentence(store, tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(ArtifactRefused, match="too long"):
        store.store(tmp_path / "d")


@pytest.mark.parametrize(
    "text",
    [
        '{"form":"folder","files":[{"path":"../../x","sha256":"%s","size":1}]}' % ("0" * 64),
        '{"form":"folder","files":[{"path":"x","sha256":"../../../../etc/passwd","size":1}]}',
        '{"form":"folder","files":[{"path":"x","sha256":"%s"}]}' % ("0" * 64),
        '{"form":"folder"}',
        "[]",
        "{",
    ],
)
def test_an_imported_manifest_that_points_elsewhere_is_none(store, tmp_path, text):
    name = hashlib.sha256(text.encode()).hexdigest()
    manifests = tmp_path / "export" / "manifests" / name[:2]
    manifests.mkdir(parents=True)
    (manifests / f"{name}.json").write_text(text)
    store.take_in(tmp_path / "export")
    for use in (store.check_whole, store.verify, lambda n: store.download(n, tmp_path / "out")):
        with pytest.raises(ArtifactChanged, match="is none"):
            use(name)
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_written_where_it_should_go_is_one_sentence(store, tmp_path):
    (tmp_path / "w").write_bytes(b"w")
    stored = store.store(tmp_path / "w")
    (tmp_path / "out").write_text("a file where a folder should be")
    with pytest.raises(ArtifactError, match=r"out/w cannot be written: ") as told:
        store.download(stored.digest, tmp_path / "out")
    assert "\n" not in str(told.value)


def test_a_spoilt_file_in_the_store_is_mended_when_its_content_is_stored_again(store, tmp_path):
    (tmp_path / "w").write_bytes(b"good")
    stored = store.store(tmp_path / "w")
    (blob,) = (tmp_path / "lake" / "artifacts" / "blobs").glob("*/*")
    assert blob.stat().st_mode & 0o222 == 0
    blob.chmod(0o644)
    blob.write_bytes(b"evil")
    with pytest.raises(ArtifactChanged):
        store.verify(stored.digest)
    store.store(tmp_path / "w")
    store.verify(stored.digest)


# -- disks and permissions --------------------------------------------------------------------


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_done(tmp_path):
    mounted = 'mount -t tmpfs -o size=3m tmpfs "$1" && shift && exec "$@"'
    disk = tmp_path / "disk"
    disk.mkdir()
    small = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted, "sh", str(disk))
    if subprocess.run([*small, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    (tmp_path / "large").write_bytes(b"x" * 8 * MB)
    (tmp_path / "huge").write_bytes(b"y" * 40 * MB)
    (tmp_path / "small").write_bytes(b"z" * MB)
    with (tmp_path / "hollow").open("wb") as stream:
        stream.truncate(50 * MB)
    done = script(
        """
        for path in sys.argv[2:]:
            try:
                print(store.store(path).size)
            except MlregError as failure:
                print(failure)
        root = Path(sys.argv[1])
        print(sorted(p.parent.parent.name for p in root.rglob("*") if p.is_file()))
        """,
        disk / "lake",
        tmp_path / "large",
        tmp_path / "huge",
        tmp_path / "small",
        tmp_path / "hollow",
        inside=small,
    )
    assert done.returncode == 0, done.stderr
    full = f"cannot be stored in {disk}/lake/artifacts: the disk is full; free some space"
    assert done.stdout.splitlines() == [
        f"{tmp_path}/large {full}",
        f"{tmp_path}/huge {full}",
        str(MB),
        str(50 * MB),
        "['blobs', 'blobs', 'manifests', 'manifests']",
    ]


def test_without_permission_storing_and_reading_are_one_sentence(tmp_path_factory):
    folder = Path(tempfile.mkdtemp(prefix="mlreg-test-"))
    folder.chmod(0o755)
    (folder / "home").mkdir(mode=0o555)
    (folder / "secret").write_bytes(b"s")
    (folder / "secret").chmod(0)
    (folder / "open").write_bytes(b"o")
    try:
        done = script(
            """
            if os.geteuid() == 0:
                os.setuid(65534)
            for path in sys.argv[2:]:
                try:
                    store.store(path)
                except MlregError as failure:
                    print(failure)
            """,
            folder / "home",
            folder / "secret",
            folder / "open",
        )
    finally:
        for path in ("secret", "open"):
            (folder / path).unlink()
        (folder / "home").rmdir()
        folder.rmdir()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{folder}/secret cannot be read: Permission denied",
        f"{folder}/open cannot be stored in {folder}/home/artifacts: " + PERMISSION,
    ]
