"""The demo's training code: a code location of its own, as a team would write it beside the platform.

Two datasets, a logistic regression and a gradient boosting. It imports nothing of the project
but `ml_registry_pipelines.training`. What the data are is told in demo/README.md; the models show how
training is recorded, and are fit for no decision about anybody.
"""

from enum import Enum
from pathlib import Path

import dagster as dg

from ml_registry_pipelines.training import (
    Checks,
    Columns,
    Outcome,
    RegistryResource,
    TrainedModel,
    TrainingSet,
    tracked_dataset,
    trained_model,
)

SHIPPED = Path(__file__).parent / "data" / "training"
OWNERS = ["team:risk-models"]
SEED = 0
NUMBERS = ["age", "priors_count", "juv_fel_count", "juv_misd_count", "juv_other_count"]
"""What the recidivism model looks at; race and COMPAS' own score are in the data and are not read."""
WORDS = ["sex", "c_charge_degree"]
WOMEN = ["A92", "A95"]
"""Codes of `sex_and_marital_status` that are women's, after the description of the data."""
CREDIT_CHECKS = Checks(
    Columns(
        label="risk_is_bad",
        prediction="predicted_bad",
        groups={"sex": "sex", "age": "age"},
        positive=("1",),
        favourable=Outcome.NEGATIVE,
    ),
    ["demo-credit"],
)
"""By what the credit model is checked; `make demo` puts the suite into the home, from demo/governance/suites."""


class Edition(Enum):
    """Which records of the COMPAS data are taken."""

    AS_PUBLISHED = "as_published"
    SCREENED = "screened"


class Records(dg.Config):
    """`screened` leaves out who was not screened within 30 days of the arrest, as ProPublica's analysis does."""

    edition: Edition = Edition.AS_PUBLISHED


class DataFolder(dg.ConfigurableResource["DataFolder"]):
    """Where the datasets are written."""

    path: str

    def file(self, name: str) -> Path:
        file = Path(self.path) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file


@tracked_dataset("compas", owners=OWNERS, kinds={"parquet", "pandas"})
def compas(config: Records, folder: DataFolder) -> Path:
    """One row is one person screened with COMPAS in Broward County, and whether they were charged again."""
    import pandas as pd

    rows = pd.read_csv(SHIPPED / "compas_two_years.csv.gz")
    if config.edition is Edition.SCREENED:
        rows = rows[rows["days_b_screening_arrest"].between(-30, 30)]
    # Editions lie beside each other, so that old versions can still be read.
    file = folder.file(f"compas/{config.edition.value}.parquet")
    rows.to_parquet(file, index=False)
    return file


@tracked_dataset("german-credit", owners=OWNERS, kinds={"parquet", "pandas"})
def german_credit(folder: DataFolder) -> Path:
    """One row is one applicant for credit, and whether the risk was judged good (1) or bad (2)."""
    import pandas as pd

    file = folder.file("german-credit.parquet")
    pd.read_csv(SHIPPED / "german_credit.csv.gz").to_parquet(file, index=False)
    return file


@trained_model("recidivism", trained_on={"people": compas}, owners=OWNERS, kinds={"scikitlearn"})
def recidivism(people: TrainingSet) -> TrainedModel:
    """Whether somebody is charged again within two years: logistic regression."""
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    rows = people.to_pandas([*NUMBERS, *WORDS, "two_year_recid"])
    inputs, outcome = rows[[*NUMBERS, *WORDS]], rows["two_year_recid"]
    seen, unseen, known, hidden = train_test_split(inputs, outcome, random_state=SEED)
    prepare = make_column_transformer((StandardScaler(), NUMBERS), (OneHotEncoder(drop="if_binary"), WORDS))
    model = make_pipeline(prepare, LogisticRegression()).fit(seen, known)
    return TrainedModel(
        model,
        metrics={
            "accuracy": model.score(unseen, hidden),
            "roc_auc": roc_auc_score(hidden, model.predict_proba(unseen)[:, 1]),
        },
        inputs=inputs,
        outputs=outcome,
    )


@trained_model(
    "credit-risk",
    trained_on={"applicants": german_credit},
    checks=CREDIT_CHECKS,
    owners=OWNERS,
    kinds={"scikitlearn"},
)
def credit_risk(applicants: TrainingSet) -> TrainedModel:
    """Whether an applicant's risk is bad: gradient boosting."""
    import pandas as pd
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    rows = applicants.to_pandas()
    inputs, bad = rows.drop(columns="risk"), rows["risk"] == 2
    seen, unseen, known, hidden = train_test_split(inputs, bad, random_state=SEED)
    prepare = make_column_transformer(
        (OrdinalEncoder(), make_column_selector(dtype_exclude="number")), remainder="passthrough"
    )
    model = make_pipeline(prepare, GradientBoostingClassifier(random_state=SEED)).fit(seen, known)
    # Every applicant is predicted once, by a model that has not seen the fifth of them in which they are.
    fifths = StratifiedKFold(5, shuffle=True, random_state=SEED)
    predicted = cross_val_predict(model, inputs, bad, cv=fifths)
    evaluation = pd.DataFrame(
        {
            "risk_is_bad": bad.astype(int),
            "predicted_bad": predicted.astype(int),
            "sex": rows["sex_and_marital_status"].isin(WOMEN).map({True: "female", False: "male"}),
            "age": (rows["age"] <= 25).map({True: "25 or younger", False: "older than 25"}),
        }
    )
    return TrainedModel(
        model,
        metrics={
            "accuracy": model.score(unseen, hidden),
            "roc_auc": roc_auc_score(hidden, model.predict_proba(unseen)[:, 1]),
        },
        inputs=inputs,
        outputs=bad.rename("risk_is_bad"),
        evaluation=evaluation,
    )


defs = dg.Definitions(
    assets=[compas, german_credit, recidivism, credit_risk],
    jobs=[
        dg.define_asset_job("train_models", executor_def=dg.in_process_executor),
        dg.define_asset_job(
            "retrain_recidivism", selection=[compas, recidivism], executor_def=dg.in_process_executor
        ),
    ],
    resources={"registry": RegistryResource(), "folder": DataFolder(path=dg.EnvVar("MLREG_DEMO_DATA"))},
)
