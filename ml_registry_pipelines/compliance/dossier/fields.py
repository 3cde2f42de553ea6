"""The 23 leaf fields of Annex IV of Regulation (EU) 2024/1689, in our words, and what of them a person can attest."""

from __future__ import annotations

from ml_registry_pipelines.compliance.dossier.content import Asked

ANNEX_IV: tuple[Asked, ...] = (
    Asked(
        "1(a)",
        "Purpose, provider and version",
        "What the system is for, who provides it, which version this is and how it relates to earlier ones.",
    ),
    Asked(
        "1(b)",
        "Interaction with other systems",
        "How it interacts with hardware and software that is not part of it, other AI systems included.",
    ),
    Asked(
        "1(c)",
        "Software and firmware",
        "Versions of the relevant software or firmware, and what updates require.",
    ),
    Asked(
        "1(d)", "Forms of supply", "All forms in which it is placed on the market: packages, downloads, APIs."
    ),
    Asked("1(e)", "Hardware", "The hardware that it is meant to run on.", of_model=True),
    Asked(
        "1(f)",
        "Product that it is part of",
        "If it is a component of products: photographs or drawings with features, marking and layout.",
        of_model=True,
    ),
    Asked("1(g)", "User interface", "The basic user interface that the deployer gets.", of_model=True),
    Asked(
        "1(h)",
        "Instructions for use",
        "Instructions for the deployer, and the user interface that they describe.",
    ),
    Asked(
        "2(a)",
        "Methods and steps of development",
        "How it was developed, with pre-trained systems and tools of others, and how they were used or changed.",
    ),
    Asked(
        "2(b)",
        "Design",
        "General logic, algorithms, key design choices with rationale and assumptions, what it optimises, trade-offs.",
    ),
    Asked(
        "2(c)",
        "Architecture and computing resources",
        "How components build on or feed each other, and the computing resources for development and training.",
    ),
    Asked(
        "2(d)",
        "Data",
        "Data sets for training: provenance, scope, characteristics, how they were selected, labelled, cleaned.",
    ),
    Asked(
        "2(e)",
        "Human oversight",
        "The oversight measures that Article 14 needs, and what helps deployers to interpret the output.",
        of_model=True,
    ),
    Asked(
        "2(f)",
        "Pre-determined changes",
        "Changes of the system and its performance that were determined beforehand, and how compliance is kept.",
        of_model=True,
    ),
    Asked(
        "2(g)",
        "Validation and testing",
        "Procedures, data, metrics of accuracy, robustness and possibly discriminatory impact, test logs and reports.",
    ),
    Asked("2(h)", "Cyber security", "The measures of cyber security that were put in place."),
    Asked(
        "3",
        "Monitoring, functioning and control",
        "Capabilities and limits, accuracy overall and for groups, foreseeable outcomes, risks, input data.",
    ),
    Asked(
        "4",
        "Appropriateness of the metrics",
        "Why the performance metrics are appropriate for this system.",
        of_model=True,
    ),
    Asked("5", "Risk management", "The risk management system under Article 9.", of_model=True),
    Asked("6", "Changes through its lifecycle", "Relevant changes that the provider made."),
    Asked(
        "7",
        "Standards",
        "Harmonised standards applied in full or in part; where none, the solutions adopted instead.",
        of_model=True,
    ),
    Asked("8", "EU declaration of conformity", "A copy of the declaration, or where it is kept."),
    Asked(
        "9",
        "Post-market monitoring",
        "The system to evaluate performance after it is placed on the market, with the plan under Article 72(3).",
    ),
)
ASKED = {asked.id: asked for asked in ANNEX_IV}
