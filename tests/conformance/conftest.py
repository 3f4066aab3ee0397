"""Conformance tests install other libraries: they run only where `-m` names them (`make check-foreign`)."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "conformance" in config.getoption("-m"):
        return
    left_out = [item for item in items if item.get_closest_marker("conformance")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
