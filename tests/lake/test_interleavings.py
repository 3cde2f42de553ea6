"""Any order of writes by several lakes on one folder leaves exactly what a list would hold."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ml_registry_pipelines.lake.lake import Lake, Landed, LostRace, OutOfSequence, StaleSlice
from tests.examples import examples
from tests.lake.points import TABLE, points, values

DAYS = (date(2026, 1, 2), date(2026, 1, 3))
lakes = st.integers(0, 2)
sources = st.sampled_from(["ingestion", "metrics"])
days = st.sampled_from(DAYS)


class Writes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="mlreg-test-"))
        self.lakes = [Lake(str(self.folder)) for _ in range(3)]
        self.rows: dict[date, Counter[float]] = {day: Counter() for day in DAYS}
        self.sequences: Counter[str] = Counter()
        self.replaced_from = 0
        self.next_value = 0

    def batch(self, count: int) -> list[float]:
        first, self.next_value = self.next_value, self.next_value + count
        return [float(n) for n in range(first, self.next_value)]

    @rule(lake=lakes, source=sources, day=days, step=st.integers(0, 2), count=st.integers(0, 3))
    def append_once(self, lake, source, day, step, count):
        sequence = self.sequences[source] + step
        rows = self.batch(count)
        if step == 2:
            with pytest.raises(OutOfSequence):
                self.lakes[lake].append_once(TABLE, points(rows, day=day), source=source, sequence=sequence)
            return
        landed = self.lakes[lake].append_once(TABLE, points(rows, day=day), source=source, sequence=sequence)
        assert landed is (Landed.NOW if step else Landed.BEFORE)
        if step:
            self.rows[day].update(rows)
            self.sequences[source] = sequence

    @rule(lake=lakes, source=sources, day=days, count=st.integers(1, 3))
    def append_next(self, lake, source, day, count):
        rows = self.batch(count)
        self.sequences[source] += 1
        assert (
            self.lakes[lake].append_next(TABLE, points(rows, day=day), source=source)
            == self.sequences[source]
        )
        self.rows[day].update(rows)

    @rule(lake=lakes, day=days, back=st.integers(0, 2))
    def append_expecting(self, lake, day, back):
        newest = self.lakes[(lake + 1) % 3].version(TABLE)
        rows = self.batch(1)
        if back and newest >= back:
            with pytest.raises(LostRace):
                self.lakes[lake].append_expecting(TABLE, points(rows, day=day), version=newest - back)
            return
        assert self.lakes[lake].append_expecting(TABLE, points(rows, day=day), version=newest) == newest + 1
        self.rows[day].update(rows)

    @rule(lake=lakes, day=days, step=st.integers(-1, 1), count=st.integers(0, 2))
    def replace(self, lake, day, step, count):
        sequence = max(self.replaced_from + step, 0)
        rows = self.batch(count)
        arguments = {"predicate": f"day = '{day}'", "source": "rollup", "sequence": sequence}
        if sequence < self.replaced_from:
            with pytest.raises(StaleSlice):
                self.lakes[lake].replace(TABLE, points(rows, day=day), **arguments)
            return
        self.lakes[lake].replace(TABLE, points(rows, day=day), **arguments)
        self.replaced_from = sequence
        self.rows[day] = Counter(rows)

    @rule(lake=lakes, remainder=st.integers(0, 4))
    def erase(self, lake, remainder):
        erased = self.lakes[lake].erase(TABLE, f"CAST(value AS BIGINT) % 5 = {remainder}")
        gone = 0
        for day, held in self.rows.items():
            left = Counter({value: n for value, n in held.items() if value % 5 != remainder})
            gone += held.total() - left.total()
            self.rows[day] = left
        assert (erased.rows, erased.files_pending) == (gone, 0)

    @rule(lake=lakes, full=st.booleans())
    def maintain(self, lake, full):
        self.lakes[lake].maintain(TABLE, full=full)

    @rule(lake=lakes)
    def start_again(self, lake):
        self.lakes[lake].close()
        self.lakes[lake] = Lake(str(self.folder))

    @invariant()
    def every_lake_agrees_with_the_list(self):
        reader = self.lakes[self.next_value % 3]
        assert values(reader) == sum(self.rows.values(), Counter())
        for source, sequence in self.sequences.items():
            assert reader.sequence(TABLE, source) == sequence

    def teardown(self):
        for lake in self.lakes:
            lake.close()
        shutil.rmtree(self.folder)


TestWrites = Writes.TestCase
TestWrites.settings = settings(
    max_examples=examples(6, least=3),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
