"""The Python that is forked after its imports behaves as one that is started (helpers/warm.py)."""

import os
import signal
import subprocess
import sys

import pytest
from helpers import warm

pytestmark = pytest.mark.slow
PROGRAMS = {
    "status": "import sys; sys.exit(7)",
    "text": "import sys; sys.exit('no')",
    "error": "print('before', flush=True); 1 / 0",
    "signal": "import os; os.kill(os.getpid(), 9)",
    "streams": "import sys; print(sys.stdin.read().upper(), sys.argv, sys.path[0]); print('é', file=sys.stderr)",
    "environment": "import os; print(os.getcwd(), os.environ['OWN'], os.environ.get('HOME'))",
    "threads": "import atexit, threading; atexit.register(print, 'end')\nthreading.Timer(0.1, print, ['t']).start()",
    "processes": "import subprocess, sys; print(subprocess.call([sys.executable, '-c', 'raise SystemExit(3)']))",
}


def run(program: str, *words: str, cwd) -> tuple[int, str, str]:
    environment = os.environ | {"OWN": "own", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [program, *words, "a", "b"], cwd=cwd, env=environment, input="in", capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr.splitlines()[-1] if done.stderr else ""


@pytest.mark.parametrize("code", PROGRAMS.values(), ids=PROGRAMS)
def test_it_does_what_python_does(code, tmp_path):
    assert run(warm.python(), "-c", code, cwd=tmp_path) == run(sys.executable, "-c", code, cwd=tmp_path)


def test_a_script_and_a_module_find_their_neighbors(tmp_path):
    (tmp_path / "neighbor.py").write_text("import sys; print(__name__, sys.argv[1:])\nNAME = 1")
    (tmp_path / "script.py").write_text("import neighbor; print(neighbor.NAME, __file__)")
    for words in (["script.py"], ["-m", "neighbor"]):
        assert run(warm.python(), *words, cwd=tmp_path) == run(sys.executable, *words, cwd=tmp_path)


def test_nothing_of_this_library_is_imported_before(tmp_path):
    code = "import sys; print('torch' in sys.modules, any(name.startswith('lightning_fusion') for name in sys.modules))"
    assert run(warm.python(), "-c", code, cwd=tmp_path) == (0, "True False\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it(number, tmp_path):
    code = "import time; print('begun', flush=True); time.sleep(60)"
    with subprocess.Popen([warm.python(), "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.wait(20) == -number
        assert process.stdout.read() == ""  # closed: the process itself has ended
