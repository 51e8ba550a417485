"""No false alarm and no miss on trained networks of strangers, no fault missed: where their packages are downloaded.

scripts/check_verdicts FOLDER --only ppocr-orientation downloads all packages into this user's cache; until then these
tests are skipped.
"""

import programs  # noqa: F401 - it tells Python where scripts/ are
import pytest
from verdicts import download, measure
from verdicts.networks import NETWORKS

PACKAGES = download.find_default_folder()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not download.is_complete(PACKAGES),
        reason="the networks are not downloaded: scripts/check_verdicts build/verdicts --only ppocr-orientation",
    ),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder for all, so that graphs and calibrations are made once."""
    return measure.Workplace(PACKAGES, tmp_path_factory.mktemp("verdicts"))


@pytest.mark.parametrize("target", measure.TARGETS)
@pytest.mark.parametrize("precision", measure.PRECISIONS)
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_the_verdict_is_right(place, network, precision, target):
    row = measure.measure_verdict(place, network, precision, target)
    assert row.error == "", f"{row.word} ({'; '.join(row.reasons)}), but {row.cost}"


@pytest.mark.parametrize("precision", measure.FAULT_TARGETS)
@pytest.mark.parametrize("subject", measure.SUBJECTS, ids=lambda subject: subject.name)
def test_every_fault_is_caught_at_its_stage(place, subject, precision):
    rows = measure.measure_faults(place, subject, precision)
    assert {row.fault: row.error for row in rows if row.error} == {}
