"""Prices as a Dagster resource: where the contract-price file lies, and the catalogue brought up to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from ml_registry_pipelines.lake.files import FilesError, open_folder

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.catalog import CatalogSync
    from ml_registry_pipelines.costs.contracts import Contract
    from ml_registry_pipelines.costs.currencies import RatesTaken
    from ml_registry_pipelines.lake.lake import Lake


class PricesResource(dg.ConfigurableResource["PricesResource"]):
    """List prices of the genai-prices library, and agreed ones of a contract-price file."""

    home: str
    contract_file: str | None = None
    """A file that must be there; None: `contract-prices.yaml` below the home, where there is one."""

    def contracts(self) -> list[Contract]:
        """The contracts there are.

        Raises:
            ContractError: a file does not say what it has to.
            FilesError: the file that was named is not there.
        """

        from ml_registry_pipelines.costs.contracts import configured_contracts

        return configured_contracts(self.home, self.contract_file)

    def mark(self) -> str:
        """What differs when a sync could bring something new: the library's version and the marks of both files."""
        from ml_registry_pipelines.costs.contracts import contract_place
        from ml_registry_pipelines.costs.currencies import RATES_FILE
        from ml_registry_pipelines.costs.list_prices import library_version

        folder, name = contract_place(self.home, self.contract_file)
        contract = _mark(folder, name)
        return f"{library_version()} {contract} {_mark(self.home, RATES_FILE)}"

    def sync(self, lake: Lake) -> CatalogSync:
        """Make the catalogue say what lists and contracts say now."""
        from ml_registry_pipelines.costs.catalog import sync_catalog

        return sync_catalog(lake, self.contracts())

    def sync_rates(self, lake: Lake) -> RatesTaken:
        """Take the rates of exchange that the file below the home states; none where there is none."""
        from ml_registry_pipelines.costs.currencies import add_rates, configured_rates

        return add_rates(lake, configured_rates(self.home))

    def sync_first(self, lake: Lake) -> None:
        """Fill an empty catalogue: a first batch must not go unpriced because no sync ran yet."""
        from ml_registry_pipelines.costs.catalog import catalog_generation

        if not catalog_generation(lake):
            self.sync(lake)


def _mark(folder: str, name: str) -> str:
    """What differs when a file does; `none` where it is not there."""
    try:
        return open_folder(folder).entry(name).mark
    except FilesError:
        return "none"
