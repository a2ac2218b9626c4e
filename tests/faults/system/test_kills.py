"""A sample of ``make torture``: what is killed at a file event leaves the old version whole, and completes."""

import pytest
from helpers import jobs
from helpers.subprocesses import run_module


@pytest.mark.slow
def test_what_was_killed_is_whole_and_completes(tmp_path):
    names = [job.name for job in jobs.JOBS if not job.name.startswith("recipe")]
    done = run_module(jobs, *names, "--events=1", "--moments=0", cwd=tmp_path, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith(f"| all | {len(names)} | 0 |")
