"""The index beneath a search: made by itself, made anew when it must be, by several at once, while others write."""

from __future__ import annotations

import base64
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ml_registry_pipelines.access.users import Users, actor_for_key
from ml_registry_pipelines.compliance.erasure.erasing import Eraser
from ml_registry_pipelines.compliance.erasure.homes import remove_index
from ml_registry_pipelines.lake.files import LocalFolder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables.erasure import SUPPRESSION_LIST
from ml_registry_pipelines.registry.actors import BY_FOLDER, Actor
from ml_registry_pipelines.registry.content import HostedModel
from ml_registry_pipelines.registry.errors import NotAllowed
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.versions import VersionFacts
from ml_registry_pipelines.search.index import file as index_file
from ml_registry_pipelines.search.index.file import IndexUnusable
from ml_registry_pipelines.search.models import ModelSearch
from ml_registry_pipelines.telemetry.identity import salted_hash
from ml_registry_pipelines.telemetry.ingestion import user_salt
from ml_registry_pipelines.telemetry.sources import Sources
from ml_registry_pipelines.telemetry.suppression import TABLE as SUPPRESSED
from ml_registry_pipelines.telemetry.suppression import entries_of, suppression_key
from tests.killing import KILLS, SECONDS, run_killed
from tests.registry.conftest import ACTOR


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """A log in a lake of its own, with three models."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as log:
        ModelRegistry(log, actor=ACTOR).register_many(NewThing(f"m{n}", tags={"n": n}) for n in range(3))
        yield log


def names(log: Log, query: str = "") -> list[str]:
    return [hit.name for hit in ModelSearch(log, actor=ACTOR).search(query).hits]


def folder_of(log: Log) -> Path:
    return Path(log.lake.root, "search_index")


def database_of(log: Log) -> Path:
    return folder_of(log) / (folder_of(log) / "current").read_text()


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def truncate(folder: Path) -> None:
    for path in folder.glob("*.sqlite*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def scribble(folder: Path) -> None:
    for path in folder.glob("*.sqlite*"):
        path.write_bytes(b"no database at all" * 1000)


def scribble_inside(folder: Path) -> None:
    for path in folder.glob("*.sqlite-*"):
        path.unlink()
    for path in folder.glob("*.sqlite"):
        data = path.read_bytes()
        path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))


def older_format(folder: Path) -> None:
    with sqlite3.connect(next(folder.glob("*.sqlite"))) as database:
        database.execute("PRAGMA user_version = 0")


def lose_a_table(folder: Path) -> None:
    with sqlite3.connect(next(folder.glob("*.sqlite"))) as database:
        database.execute("DROP TABLE model_tags")


def empty_file(folder: Path) -> None:
    for path in folder.glob("*.sqlite*"):
        path.write_bytes(b"")


def strange_pointer(folder: Path) -> None:
    (folder / "current").write_bytes(b"../../\xff\x00")


@pytest.mark.parametrize(
    "damage",
    [
        remove,
        truncate,
        scribble,
        scribble_inside,
        older_format,
        lose_a_table,
        empty_file,
        strange_pointer,
    ],
)
def test_an_index_that_is_gone_damaged_or_of_another_format_is_made_anew(own, damage: Callable[[Path], None]):
    assert names(own, "tags.n >= 1") == ["m1", "m2"]
    with Log(own.lake) as other:
        index_file.index_of(own).close()
        damage(folder_of(own))
        assert names(other, "tags.n >= 1") == ["m1", "m2"]
        ModelRegistry(other, actor=ACTOR).tag_model("m0", {"n": 5})
        assert names(own, "tags.n >= 1") == ["m0", "m1", "m2"]


def test_an_index_of_another_log_is_made_anew(own, tmp_path):
    names(own)
    with Lake(str(tmp_path / "other")) as lake, Log(lake) as log:
        ModelRegistry(log, actor=ACTOR).register_model("elsewhere")
        folder_of(own).rename(folder_of(log))
        assert names(log) == ["elsewhere"]


def test_one_command_makes_the_index_anew(own):
    assert names(own) == ["m0", "m1", "m2"]
    before = database_of(own)
    standing = ModelSearch(own, actor=ACTOR).rebuild()
    assert (standing.states, standing.position) == (3, 1)
    assert database_of(own) != before
    assert not before.exists()
    assert names(own) == ["m0", "m1", "m2"]


def test_an_index_that_is_removed_with_a_person_is_made_anew(own):
    names(own)
    journal = f"search_index/{database_of(own).name}-wal"
    remove_index(LocalFolder(Path(own.lake.root)), journal)
    assert list(folder_of(own).iterdir()) == []
    assert names(own) == ["m0", "m1", "m2"]


def test_after_an_erasure_no_index_keeps_what_it_had_read(own, monkeypatch):
    names(own)
    before = database_of(own)
    monkeypatch.setattr(index_file, "_erases", lambda event: event.action == "tag_model")
    ModelRegistry(own, actor=ACTOR).tag_model("m0", {"n": 7})
    assert names(own, "tags.n = 7") == ["m0"]
    assert not before.exists()
    made = database_of(own)
    assert names(own, "tags.n = 7") == ["m0"]
    assert database_of(own) == made


def by_list(log: Log, people: Sequence[str]) -> None:
    """Put people on the suppression list, as an erasure does before it removes the index."""
    salt, key = user_salt(log.lake.root), suppression_key(log.lake.root)
    rows = [
        {"tenant": "default", "entry": entry, "erasure_id": "e1", "recorded_at": datetime.now(UTC)}
        for entry in entries_of(key, "default", [salted_hash(salt, "default", one) for one in people])
    ]
    log.lake.append_next(
        SUPPRESSED, pa.Table.from_pylist(rows, schema=SUPPRESSION_LIST.schema), source="test"
    )
    remove_index(LocalFolder(Path(log.lake.root)), "search_index/current")


def by_erasure(log: Log, people: Sequence[str]) -> None:
    eraser = Eraser(log, ACTOR, "default", Sources([]))
    assert eraser.erase(eraser.subject(people)).complete


@pytest.mark.parametrize("erased", [by_list, pytest.param(by_erasure, marks=pytest.mark.soak)])
def test_an_index_that_is_made_anew_from_the_log_holds_nobody_who_was_erased(own, erased):
    registry, person = ModelRegistry(own, actor=ACTOR), "anna.lind-9"
    registry.register_model(f"of-{person}", description=f"Ask <{person}>, or Anna Lind: she knows.")
    registry.tag_model("m1", {"contact": person, "n": 7})
    registry.set_model_owners("m2", [person, "team:x"])
    facts = VersionFacts(parameters={"by": person})
    registry.create_model_version("m2", HostedModel("a", "b"), facts, description=f"{person}/{person}.")
    registry.describe_model("m0", f"{person} was here")
    registry.describe_model("m0", "plain")
    assert search_of(own, text=person) == [f"of-{person}"]
    erased(own, [person, "Anna Lind"])
    assert search_of(own, "tags.n = 7 AND tags.contact = 'erased'") == ["m1"]
    assert search_of(own, text="anna") == search_of(own, text="lind") == []
    assert search_of(own, text="knows") == ["of-erased"]
    held = b"".join(path.read_bytes() for path in folder_of(own).iterdir()).lower()
    assert b"anna" not in held
    assert b"lind" not in held
    # Nor does it come back with what is written later.
    registry.describe_model("m1", f"again {person}")
    assert search_of(own, "description = 'again erased'") == ["m1"]


def search_of(log: Log, query: str = "", **options: Any) -> list[str]:
    return [hit.name for hit in ModelSearch(log, actor=ACTOR).search(query, **options).hits]


def test_where_the_root_cannot_be_written_the_index_lies_in_the_cache(own, tmp_path, monkeypatch):
    writable = index_file.writable
    monkeypatch.setattr(
        index_file, "writable", lambda place: not str(place).startswith(own.lake.root) and writable(place)
    )
    assert names(own) == ["m0", "m1", "m2"]
    assert not folder_of(own).exists()
    assert list((tmp_path / "cache").rglob("*.sqlite"))


def test_where_nothing_can_be_written_the_index_goes_with_the_process(own, tmp_path, monkeypatch):
    monkeypatch.setattr(index_file, "writable", lambda _: False)
    assert names(own) == ["m0", "m1", "m2"]
    assert not list(tmp_path.rglob("*.sqlite"))


def test_a_search_makes_no_registry_where_there_is_none(tmp_path):
    root = tmp_path / "lake"
    with Lake(str(root)) as lake, Log(lake) as log:
        assert names(log) == []
        assert not root.exists()
        ModelRegistry(log, actor=ACTOR).register_model("first")
        assert names(log) == ["first"]
        assert folder_of(log).is_dir()


def test_an_index_that_others_hold_is_not_thrown_away(own, monkeypatch):
    monkeypatch.setattr(index_file, "PATIENCE_SECONDS", 0.05)
    names(own)
    database = database_of(own)
    with sqlite3.connect(database, isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        assert names(own) == ["m0", "m1", "m2"]  # Who reads waits for nobody.
        ModelRegistry(own, actor=ACTOR).register_model("m3")
        with Log(own.lake) as other, pytest.raises(IndexUnusable, match="locked"):
            names(other)
        holder.execute("ROLLBACK")
    assert names(own) == ["m0", "m1", "m2", "m3"]
    assert database_of(own) == database


def test_threads_of_one_process_search_at_once(own):
    found: list[list[str]] = []

    def work() -> None:
        found.extend(names(own, "tags.n >= 1") for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["m1", "m2"]] * 20


BUILDER = """
import sys
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.search.index import file
from ml_registry_pipelines.search.models import ModelSearch
from ml_registry_pipelines.telemetry.identity import salted_hash
from ml_registry_pipelines.telemetry.ingestion import user_salt
from ml_registry_pipelines.telemetry.sources import Sources
from ml_registry_pipelines.telemetry.suppression import TABLE as SUPPRESSED
from ml_registry_pipelines.telemetry.suppression import entries_of, suppression_key
file.EVENTS_AT_ONCE = 7  # Many transactions.
log = Log(Lake(sys.argv[1]))
search = ModelSearch(log, actor=Actor("p1"))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    if sys.argv[2] != "1":
        search.rebuild()
    assert search.count("tags.n >= 10") == 30, search.count("tags.n >= 10")
    assert search.count(text="model") == 40
print("done", flush=True)
"""


@pytest.fixture
def longer(own: Log) -> Log:
    """A log of many events."""
    registry = ModelRegistry(own, actor=ACTOR)
    for n in range(3):
        registry.delete_model(f"m{n}")
    for n in range(40):
        registry.register_model(f"model {n}", tags={"n": n})
    return own


def test_processes_that_build_at_once_make_one_index(longer):
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, longer.lake.root, "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for builder in builders:
        assert builder.stdout
        assert builder.stdout.readline() == "ready\n"
    for builder in builders:
        assert builder.stdin
        builder.stdin.write("\n")
        builder.stdin.flush()
    assert [builder.communicate()[0] for builder in builders] == ["done\n", "done\n"]
    assert len(list(folder_of(longer).glob("*.sqlite"))) == 1
    assert names(longer, "tags.n = 39") == ["model 39"]


@pytest.mark.kill
@pytest.mark.timeout(SECONDS)
def test_builders_that_are_killed_leave_an_index_that_others_go_on_with(longer):
    run_killed(BUILDER, longer.lake.root, 3, most=KILLS, longest=0.6)
    search = ModelSearch(longer, actor=ACTOR)
    assert search.count() == 40
    assert search.count(text="model") == 40
    with sqlite3.connect(database_of(longer)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_pages_neither_skip_nor_repeat_while_another_writes(own):
    registry = ModelRegistry(own, actor=ACTOR)
    search = ModelSearch(own, actor=ACTOR)
    registry.register_many(NewThing(f"x{n:02}", tags={"n": n % 7}, description="word") for n in range(20))
    asked: list[dict[str, Any]] = [
        {"order_by": "tags.n DESC"},
        {"order_by": "name"},
        {"text": "word x05"},
        {"order_by": "updated"},
    ]
    for options in asked:
        whole = [hit.id for hit in search.search(**options).hits]
        pages, cursor, n = [], None, 0
        while True:
            page = search.search(limit=3, cursor=cursor, **options)
            pages += [hit.id for hit in page.hits]
            cursor = page.cursor
            if cursor is None:
                break
            n += 1
            # Before and behind the place where the pages are, and among what is still to come.
            registry.register_model(f"a {options} {n}", tags={"n": 99}, description="word x05")
            registry.tag_model("x10", {"n": n})
            registry.describe_model("x11", f"word word {n}")
            registry.delete_model(f"x{19 - n:02}")
            registry.restore_model(f"x{19 - n:02}")
        assert pages == whole


def payload(cursor: str) -> bytes:
    """What a cursor holds, behind its digest."""
    return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))[12:]


def test_a_grant_for_some_models_is_a_condition_of_every_search(own):
    _, key = Users(own, actor=Actor("owner", authenticated_by=BY_FOLDER)).init()
    users = Users(own, actor=actor_for_key(own, key.text))
    user = users.add_user(("viewer",), tenants=())
    actor = actor_for_key(own, users.add_key(user.id).text)
    search = ModelSearch(own, actor=actor)
    with pytest.raises(NotAllowed, match="no grant there"):
        search.search()
    for name in ("m0", "m2"):
        users.grant(user.id, "default", model=name, role="viewer")
    assert [hit.name for hit in search.search().hits] == ["m0", "m2"]
    assert [hit.name for hit in search.search("tags.n >= 1").hits] == ["m2"]
    assert search.count() == search.count("name LIKE 'm%'") == 2
    assert [hit.name for hit in search.search(text="m0 m1").hits] == ["m0"]
    # What a word weighs says nothing of models that may not be read: neither do scores, nor cursors.
    page = search.search(text="m0 m1 m2", limit=1)
    assert page.cursor is not None
    assert [word in str(payload(page.cursor)) for word in ("m0", "m1", "m2")] == [True, False, True]
    before = search.search(text="m0").hits[0].score
    ModelRegistry(own, actor=users.actor).register_model("another", description="m0 m0")
    assert search.search(text="m0").hits[0].score == before
    assert len(search.matching()) == 2
    assert not search.matching().contains(ModelRegistry(own, actor=users.actor).get_model("m1").id)
    assert [m.name for m in ModelRegistry(own, actor=actor).search_models("tags.n <= 1")] == ["m0"]
    page = search.search(limit=1)
    users.revoke(user.id, "default", model="m2")
    # A page that comes later obeys what holds then.
    assert search.search(limit=1, cursor=page.cursor).hits == ()
    with pytest.raises(NotAllowed):
        ModelSearch(own, actor=Actor("nobody")).search()


def test_tenants_do_not_see_each_other(own):
    ModelRegistry(own, actor=ACTOR, tenant="acme").register_model("m0", tags={"n": 1}, description="secret")
    acme, ours = (ModelSearch(own, actor=ACTOR, tenant=tenant) for tenant in ("acme", "default"))
    assert [hit.tags for hit in acme.search("name = 'm0'").hits] == [{"n": 1}]
    assert [hit.tags for hit in ours.search("name = 'm0'").hits] == [{"n": 0}]
    assert ours.search(text="secret").hits == ()
    assert ours.search("text MATCHES 'secret'").hits == ()
    assert ours.search("name ILIKE '%m0%'").hits[0].tags == {"n": 0}
    assert len(acme.matching()) == 1
