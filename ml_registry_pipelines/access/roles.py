"""Which role may give which command: one table, asked by the one policy at every door.

What the table does not name, admins alone may do. A verb over things ends in their kind
(`register_feature`); such a verb stands here once, for every kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ml_registry_pipelines.registry.actors import EXPORT, IMPORT, READ


class Role(Enum):
    """What a user is for. Roles add up; none includes another but `admin`, which may do everything.

    No role lets anybody decide on what he asked for himself: that is up to the gates.
    """

    VIEWER = "viewer"
    """Reads."""
    ENGINEER = "engineer"
    """Registers, trains, measures, asks for approval, promotes what was approved."""
    REVIEWER = "reviewer"
    """Decides on approvals."""
    COMPLIANCE = "compliance"
    """Keeps policies, registers and evidence; decides on approvals that want this role."""
    ADMIN = "admin"
    """Keeps users, and may do everything else."""


_EVERYBODY = frozenset(Role)
_BUILDS = frozenset({Role.ENGINEER, Role.ADMIN})
_DECIDES = frozenset({Role.REVIEWER, Role.COMPLIANCE, Role.ADMIN})
_WATCHES = frozenset({Role.COMPLIANCE, Role.ADMIN})
_BUILDS_OR_WATCHES = _BUILDS | _WATCHES
_ADMINS = frozenset({Role.ADMIN})

OPERATE = "operate"
"""Taking logs and bills, prices, upkeep: what changes measurements of all tenants, and no event of the log."""

ACTIONS: Mapping[str, frozenset[Role]] = {
    READ: _EVERYBODY,
    OPERATE: _BUILDS,
    EXPORT: _WATCHES,
    IMPORT: _ADMINS,
    # Models and versions.
    "create_model_version": _BUILDS,
    "import_model_version": _BUILDS,
    "import_hosted_models": _BUILDS,
    "add_artifact": _BUILDS,
    "describe_version": _BUILDS,
    "tag_version": _BUILDS,
    "delete_version": _BUILDS,
    "restore_version": _BUILDS,
    "set_stage": _BUILDS,
    "promote_to_production": _BUILDS,
    "rollback": _BUILDS,
    "set_alias": _BUILDS,
    "remove_alias": _BUILDS,
    "protect_alias": _BUILDS,
    "unprotect_alias": _BUILDS,
    "follow_model": _BUILDS,
    "follow_version": _BUILDS,
    # Data and deployments.
    "track_dataset": _BUILDS,
    "track_deployment": _BUILDS,
    "end_deployment": _BUILDS,
    "import_openlineage": _BUILDS,
    # What logs belong to, what was measured.
    "add_attribution_rule": _BUILDS,
    "change_attribution_rule": _BUILDS,
    "end_attribution_rule": _BUILDS,
    "remove_attribution_rule": _BUILDS,
    # Money.
    "set_budget": _BUILDS_OR_WATCHES,
    "set_budgets": _BUILDS_OR_WATCHES,
    "remove_budget": _BUILDS_OR_WATCHES,
    "add_allocation_rule": _BUILDS_OR_WATCHES,
    "end_allocation_rule": _BUILDS_OR_WATCHES,
    "remove_allocation_rule": _BUILDS_OR_WATCHES,
    "declare_value_model": _BUILDS_OR_WATCHES,
    "keep_return": _BUILDS_OR_WATCHES,
    "issue_statement": _WATCHES,
    "close_costs": _WATCHES,
    "close_costs_after": _WATCHES,
    # Experiments.
    "declare_experiment": _BUILDS,
    "start_experiment": _BUILDS,
    "stop_experiment": _BUILDS,
    "propose_promotion": _BUILDS,
    "decide_experiment": _BUILDS,
    # Approvals: who may take part; the gates say whose word counts.
    "request_approval": _BUILDS | _DECIDES,
    "review_approval": _DECIDES,
    "withdraw_approval": _BUILDS | _DECIDES,
    # What approvals rest on.
    "declare_evaluation": _BUILDS,
    "withdraw_evaluation": _BUILDS,
    "record_evaluation": _BUILDS,
    "run_compliance_checks": _BUILDS | _DECIDES,
    "edit_suites": _WATCHES,
    "classify_ai_act": _BUILDS_OR_WATCHES,
    "attest_field": _BUILDS_OR_WATCHES,
    "withdraw_field": _BUILDS_OR_WATCHES,
    "break_glass": _WATCHES,
    "review_break_glass": _DECIDES,
    "settle_approval": _ADMINS,
    "log_event": _BUILDS | _DECIDES,
    # Data protection: registers, requests of persons, erasure.
    **{
        f"{verb}_{register}": _WATCHES
        for verb in ("declare", "remove")
        for register in (
            "purpose",
            "column",
            "consent",
            "dpia",
            "processor",
            "breach",
            "notice",
            "decision",
            "key_store",
            "bias_record",
            "legal_hold",
            "aggregate",
            "membership_scores",
            "request",
            "register",
        )
    },
    "declare_registers": _WATCHES,
    "open_request": _WATCHES,
    "extend_request": _WATCHES,
    "close_request": _WATCHES,
    "withdraw_consent": _WATCHES,
    "plan_erasure": _WATCHES,
    "request_erasure": _WATCHES,
    "confirm_erasure_plan": _WATCHES,
    "extend_erasure": _WATCHES,
    "certify_erasure": _WATCHES,
    "erase_subject": _WATCHES,
    "lift_suppression": _WATCHES,
    "enforce_retention": _WATCHES,
    "export_subject_data": _WATCHES,
    "set_personal_field": _BUILDS_OR_WATCHES,
    # Running the platform.
    "acknowledge_alert": _BUILDS_OR_WATCHES,
    "withdraw_acknowledgement": _BUILDS_OR_WATCHES,
    "add_report_subscription": _BUILDS_OR_WATCHES,
    "remove_report_subscription": _BUILDS_OR_WATCHES,
    "redeliver_reports": _BUILDS_OR_WATCHES,
    "make_report": _BUILDS | _DECIDES,
    "set_time_zone": _ADMINS,
    # They carry events to other systems.
    "register_webhook": _ADMINS,
    "replay_webhook": _ADMINS,
    "delete_webhook": _ADMINS,
    "restore_webhook": _ADMINS,
    # Users; in their own tenant alone, see `policy.py`.
    "init_users": _ADMINS,
    "add_user": _ADMINS,
    "set_user_roles": _ADMINS,
    "grant_access": _ADMINS,
    "revoke_access": _ADMINS,
    "deactivate_user": _ADMINS,
    "add_api_key": _ADMINS,
    "revoke_api_key": _ADMINS,
}
"""Roles that may give a command, by its name."""

VERBS: Mapping[str, frozenset[Role]] = {
    "register_many_": _BUILDS,
    "register_": _BUILDS,
    "rename_": _BUILDS,
    "describe_": _BUILDS,
    "tag_": _BUILDS,
    "set_owners_of_": _BUILDS,
    "set_metadata_of_": _BUILDS,
    "deprecate_": _BUILDS,
    "reinstate_": _BUILDS,
    "delete_": _BUILDS,
    "restore_": _BUILDS,
    "relate_many_": _BUILDS,
    "relate_": _BUILDS,
    "unrelate_": _BUILDS,
}
"""The same for commands whose name is a verb and the kind of thing or relationship."""

PLATFORM: frozenset[str] = frozenset(
    {
        READ,
        "create_model_version",
        "import_model_version",
        "import_hosted_models",
        "add_artifact",
        "describe_version",
        "tag_version",
        "delete_version",
        "restore_version",
        "set_stage",
        "promote_to_production",
        "settle_approval",
        "run_compliance_checks",
        "record_evaluation",
        "set_alias",
        "remove_alias",
        "follow_model",
        "follow_version",
        "register_model",
        "rename_model",
        "describe_model",
        "tag_model",
        "set_owners_of_model",
        "set_metadata_of_model",
        "deprecate_model",
        "reinstate_model",
        "delete_model",
        "restore_model",
        "register_dataset",
        "track_dataset",
        "track_deployment",
        "end_deployment",
        "import_openlineage",
        "issue_statement",
        "close_costs",
        "propose_promotion",
        "stop_experiment",
        "acknowledge_alert",
        "enforce_retention",
    }
)
"""What the platform's own services may do without a person: training steps, imports, schedules.

No decision that is a person's is among them. A promotion is carried out for people: the gate asks whether
they have approved it."""


def roles_for(action: str) -> frozenset[Role]:
    """The roles that may give a command; admins alone for what nobody has named."""
    if action in ACTIONS:
        return ACTIONS[action]
    # The longest verb: `register_many_feature` is no registration of one `many_feature`.
    verbs = [verb for verb in VERBS if action.startswith(verb) and len(action) > len(verb)]
    return VERBS[max(verbs, key=len)] if verbs else _ADMINS


def is_named(action: str) -> bool:
    """Whether the table says who may give a command."""
    return action in ACTIONS or any(action.startswith(verb) for verb in VERBS)


APPROVAL_TEAM = "team:reviewers"
"""Owner of the jobs by which approvals are asked for and decided on."""
APPROVAL_JOBS = frozenset({"request_approval", "review_approval"})
"""Those jobs: what a reviewer may launch."""
