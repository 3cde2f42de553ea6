"""The end of the UI that all end-to-end tests shared; last by the name of this file."""

from __future__ import annotations

from tests.e2e.ui import Ui, mlreg, processes_with


def test_a_second_ui_for_the_same_home_is_refused_with_the_address_of_the_first(ui: Ui) -> None:
    second = mlreg(ui.home, "ui", "--port", "3001")
    assert second.returncode == 1
    assert f"already runs for {ui.home} at {ui.address}" in second.stderr


def test_ctrl_c_ends_the_ui_and_all_its_processes(ui: Ui) -> None:
    said = ui.interrupt()
    assert ui.process.returncode == 0, said
    assert f"Dagster is at {ui.address}" in said
    assert processes_with(str(ui.home)) == []
