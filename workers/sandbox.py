"""The walls around the process that parses and runs models.

With bubblewrap: no network, no other process to be seen, a file system of the programs alone, read-only but for the
folder of its job. Without: limits of the kernel, an environment without settings, and death with the worker
(`docs/threat-model.md` says what holds then).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from app.settings import Settings

logger = logging.getLogger(__name__)

PACKAGES = ("app", "workers", "pipeline", "network", "quantization", "sensitivity", "planner", "evaluation")
SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    # How many cores there are, and of what kind: torch and ONNX Runtime choose their kernels by it.
    "/sys/devices/system/cpu",
)
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "CUDA_VISIBLE_DEVICES")


def walls(settings: Settings, folder: Path) -> list[str]:
    """What stands before the command line of a child that may write below `folder` alone; nothing without bubblewrap.

    Raises:
        RuntimeError: the settings ask for bubblewrap, and it does not work here.
    """
    if settings.sandbox == "none":
        return []
    program = _bubblewrap()
    if program is None:
        if settings.sandbox == "bubblewrap":
            raise RuntimeError(
                "BITBUDGET_SANDBOX=bubblewrap, but bwrap is not installed or cannot make namespaces here; install "
                "bubblewrap, allow user namespaces, or set BITBUDGET_SANDBOX=auto"
            )
        return []
    return [program, *_namespaces(), *_file_system(folder, settings.home), "--"]


def environment(threads: int, folder: Path) -> dict[str, str]:
    """The environment of a child: no setting of the service, no credential of its user."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {
        **kept,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Read by ONNX Runtime when it is loaded: it reports names out of models to its vendor otherwise.
        "ORT_DISABLE_TELEMETRY": "1",
        # Arrow's own allocators reserve memory by the gigabyte, which the limit of memory would count.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        # Read by OpenMP and OpenBLAS when they are loaded. Torch's threads sleep between operators instead of spinning,
        # and numpy has none of its own: two pools that spin take the cores from each other (calibration of a ResNet20
        # on two busy cores: 56 s with both, 6 s like this).
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "OPENBLAS_NUM_THREADS": "1",
    }


@cache
def _bubblewrap() -> str | None:
    """The program, if it is there and works: kernels and containers may forbid the namespaces that it needs."""
    program = shutil.which("bwrap")
    if program is None:
        logger.warning("bubblewrap is not installed: models run without walls around them (docs/threat-model.md)")
        return None
    command = [program, *_namespaces(), "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command line
    if tried.returncode != 0:
        logger.warning("bubblewrap does not work here (%s): models run without walls", tried.stderr.strip()[:200])
        return None
    return program


def _namespaces() -> list[str]:
    # Of a user namespace root has no powers outside, and without capabilities none inside; a session of its own has no
    # terminal to type into.
    unshared = [f"--unshare-{kind}" for kind in ("user", "net", "pid", "ipc", "uts")]
    return ["--die-with-parent", "--new-session", "--cap-drop", "ALL", *unshared]


def _file_system(folder: Path, home: Path) -> list[str]:
    arguments = ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - one of its own
    shown = (*SYSTEM, *_programs())
    for path in shown:
        arguments += ["--ro-bind-try", path, path]
    for device in sorted(Path("/dev").glob("nvidia*")):
        arguments += ["--dev-bind-try", str(device), str(device)]
    if home.exists() and any(home.is_relative_to(path) for path in shown):
        # It has the database in it. Programs that lie in it are shown again.
        arguments += ["--tmpfs", str(home)]
        for path in shown:
            arguments += ["--ro-bind-try", path, path] if Path(path).is_relative_to(home) else []
    return [*arguments, "--bind", str(folder), str(folder), "--chdir", str(folder)]


def _programs() -> Sequence[str]:
    """Where Python, its packages and ours lie. An editable installation has no folder on `sys.path`: each of our
    packages is shown by itself, and nothing that lies beside them."""
    places = [sys.prefix, sys.base_prefix, *(path for path in sys.path if path)]
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        places += [] if found is None else list(found.submodule_search_locations or ())
    # A folder that holds the home of somebody is not shown for one package in it.
    return [path for path in dict.fromkeys(map(os.path.abspath, places)) if path not in ("/", str(Path.home()))]
