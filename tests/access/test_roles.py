"""The table of who may give which command: whole, and closed to what nobody has named."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import ml_registry_pipelines
from ml_registry_pipelines.access.roles import ACTIONS, PLATFORM, VERBS, Role, is_named, roles_for

PACKAGE = Path(ml_registry_pipelines.__file__).parent
GIVES = {"do", "ask", "amend", "amend_version", "_amend_model", "_done", "_changed"}
"""Methods whose first argument is the name of a command."""


def given_actions() -> Iterator[tuple[str, str]]:
    """Every name of a command in the code: the text, with `register` for what is filled in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        code = path.read_text("utf-8")
        if not any(f".{name}(" in code for name in GIVES):
            continue  # most of the package, whose trees take seconds to make
        tree = ast.parse(code)
        texts = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            if node.func.attr in GIVES:
                first = node.args[0]
                if isinstance(first, ast.Name) and first.id in texts:
                    first = texts[first.id]
                where = str(path.relative_to(PACKAGE))
                # Others have methods of these names too, to which they give SQL or prose.
                yield from ((where, text) for text in spelled(first) if re.fullmatch(r"[a-z][a-z_]*", text))


def spelled(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=one, orelse=other):
            yield from spelled(one)
            yield from spelled(other)
        case ast.JoinedStr(values=parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "register" for part in parts)


def test_every_command_in_the_code_is_in_the_table() -> None:
    found = set(given_actions())
    assert len(found) > 40
    assert {(where, action) for where, action in found if not is_named(action)} == set()


def test_what_nobody_has_named_is_for_admins_alone() -> None:
    for action in ("", "register_", "burn_everything", "Register_model", "promote", "*"):
        assert roles_for(action) == {Role.ADMIN}


def test_viewers_only_read_and_no_service_keeps_users_or_decides() -> None:
    assert [action for action, roles in ACTIONS.items() if Role.VIEWER in roles] == ["read"]
    assert not any(Role.VIEWER in roles for roles in VERBS.values())
    of_people = {"review_approval", "request_approval", "add_user", "add_api_key", "import_tenant"}
    assert not PLATFORM & of_people
    assert all(is_named(action) for action in PLATFORM)


def test_webhooks_carry_events_elsewhere_and_are_for_admins_although_the_verb_is_not() -> None:
    for action in ("register_webhook", "delete_webhook", "restore_webhook", "replay_webhook"):
        assert roles_for(action) == {Role.ADMIN}
    assert Role.ENGINEER in roles_for("register_feature")
    assert Role.ENGINEER in roles_for("register_many_feature")


def test_every_service_of_the_platform_says_that_it_is_one() -> None:
    """Another mark would be nobody's, and its commands be refused as soon as there are users."""
    unmarked = {
        (str(path.relative_to(PACKAGE)), ast.unparse(node))
        for path in sorted(PACKAGE.rglob("*.py"))
        if "ActorKind" in (code := path.read_text("utf-8"))
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "Actor"
        and re.search(r"ActorKind\.(SYSTEM|SERVICE)", ast.unparse(node))
        and not re.search(r"BY_PLATFORM|'platform'", ast.unparse(node))
    }
    # Who started a training step in a shell, nobody has made sure of.
    assert {where for where, _ in unmarked} == {"training/recording.py"}
