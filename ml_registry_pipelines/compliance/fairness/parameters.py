"""Parameters of fairness metrics, as a suite writes them: required, so that each is a decision on record.

None has a default. Which labels and predictions are the positive class is declared with the evaluation data.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from ml_registry_pipelines.compliance.fairness.people import DEEPEST
from ml_registry_pipelines.compliance.fairness.significance import Correction
from ml_registry_pipelines.compliance.metrics import Parameters

Values = Annotated[list[StrictBool | StrictInt | StrictFloat | StrictStr], Field(min_length=1)]
Confidence = Annotated[float, Field(ge=0.5, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Floor = Annotated[int, Field(ge=1)]
Column = Annotated[str, Field(min_length=1)]


class GroupParameters(Parameters):
    """Which groups are compared.

    Attributes:
        groups: declared group columns; several are crossed (intersectional groups).
        min_group_n: rows that a group needs to be judged; smaller ones are listed.
        max_missing: share of a group's rows that may lack what the metric reads.
        confidence: of the interval, two-sided.
    """

    groups: Annotated[list[str], Field(min_length=1, max_length=DEEPEST)]
    min_group_n: Floor
    max_missing: Share
    confidence: Confidence


class Compared(GroupParameters):
    """Attributes:
    reference: what each group is compared with: `max-min` (all pairs), `overall` (everybody), or
        `ref=Caucasian` (one group; crossed ones as `ref=race=Caucasian, sex=Male`).
    correction: of the p values of several pairs.
    """

    reference: Annotated[str, Field(pattern=r"^(max-min|overall|ref=.+)$")]
    correction: Literal["holm", "benjamini-hochberg", "none"]

    @property
    def corrected_by(self) -> Correction:
        return Correction(self.correction)


class Selection(Compared):
    """Attributes:
    favourable: which class is good for the person, `positive` or `negative`; rates are over this one. It
        has to be the one that the evaluation declares.
    """

    favourable: Literal["positive", "negative"]


class Refusals(Compared):
    """Attributes:
    refused: which class of the prediction means that the model declined to answer.
    """

    refused: Literal["positive", "negative"]


class Errors(Compared):
    """Attributes:
    min_positives: rows that a rate over positives needs (labelled so, or predicted so for PPV).
    min_negatives: the same for negatives.
    """

    min_positives: Floor
    min_negatives: Floor


class Odds(Errors):
    """Attributes:
    agg: of the two gaps, the larger one (`worst_case`) or their average (`mean`).
    seed, resamples: of the bootstrap that `mean` needs.
    """

    agg: Literal["worst_case", "mean"]
    seed: int
    resamples: Annotated[int, Field(ge=200, le=100_000)]


class Calibration(GroupParameters):
    """Attributes:
    bins: number of bins of the score.
    binning: `uniform` (equal widths) or `quantile` (about equal numbers of rows).
    """

    bins: Annotated[int, Field(ge=2, le=100)]
    binning: Literal["uniform", "quantile"]
    seed: int
    resamples: Annotated[int, Field(ge=200, le=100_000)]


class Regression(Compared):
    """A label and a prediction that are numbers."""


class Ranking(Compared):
    """Attributes:
    ranking: further role that names the ranking (the query) of an item; null: the table is one ranking.
    min_rankings: rankings that are needed.
    seed, resamples: of the bootstrap over rankings.
    """

    ranking: Column | None
    min_rankings: Floor
    seed: int
    resamples: Annotated[int, Field(ge=200, le=100_000)]


class Counterfactual(Compared):
    """Attributes:
    pair: further role that names the prompt whose variants are compared.
    min_group_n: pairs that a comparison of two variants needs.
    """

    pair: Column


class Bias(GroupParameters):
    """Attributes:
    answer: further role with the answer's class.
    condition: further role that says whether a question's context is ambiguous.
    ambiguous, disambiguated: its two values.
    biased, unbiased, unknown: values of the answer: the answer that follows the stereotype, the one
        against it, and that nothing can be said.
    seed, resamples: of the bootstrap for ambiguous contexts.
    """

    answer: Column
    condition: Column
    ambiguous: StrictBool | StrictInt | StrictStr
    disambiguated: StrictBool | StrictInt | StrictStr
    biased: Values
    unbiased: Values
    unknown: Values
    seed: int
    resamples: Annotated[int, Field(ge=200, le=100_000)]
