from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import importlib, pkgutil, sys, app
for info in pkgutil.walk_packages(app.__path__, "app."):
    importlib.import_module(info.name)
heavy = ("torch", "onnx", "onnxruntime", "onnx_ir", "onnxscript", "scipy", "numpy", "altair", "vl_convert")
own = ("network", "quantization", "sensitivity", "planner", "evaluation", "workers")
print(sorted(name for name in heavy + own if name in sys.modules))
"""


def test_app_imports_no_library_that_parses_models() -> None:
    # The linter sees the import statements of app; this sees what they bring along.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_schemas_and_the_errors_need_no_service() -> None:
    # The pipeline, as a library, makes requests and raises errors with these.
    program = """
import importlib, pkgutil, sys, app.errors, app.schemas
for info in pkgutil.walk_packages(app.schemas.__path__, "app.schemas."):
    importlib.import_module(info.name)
service = ("sqlalchemy", "fastapi", "starlette", "celery", "kombu", "httpx", "typer", "rich", "pydantic_settings")
print(sorted(name for name in (*service, "app.settings", "app.store", "app.cli") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["app.main", "app.lifecycle.messages", "app.store.engine"])
def test_nothing_happens_at_import(module: str, tmp_path: object) -> None:
    program = f"import os, threading, {module}; print(os.listdir('.'), threading.active_count())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=str(tmp_path),
        env={"HOME": str(tmp_path), "PATH": ""},
    )
    assert done.stdout.strip() == "[] 1"
