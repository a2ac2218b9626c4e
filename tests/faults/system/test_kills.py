"""A sample of ``make torture``: what is killed at a file event leaves the old version whole, and completes."""

import pytest
from helpers import jobs
from helpers.processes import together


@pytest.mark.slow
def test_what_was_killed_is_whole_and_completes(tmp_path):
    names = [job.name for job in jobs.JOBS if not job.name.startswith("recipe")]
    (said,) = together(tmp_path, jobs.report, names, 1, 0, processes=1, timeout_s=500)
    assert said.splitlines()[-1].startswith(f"| all | {len(names)} | 0 |")
