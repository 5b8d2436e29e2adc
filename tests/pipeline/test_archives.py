"""Models that come with data files: as a zip archive, or lying in a folder."""

from __future__ import annotations

import zipfile
from pathlib import Path

import onnx
import pytest

from network.admission import AdmissionLimits
from network.errors import ExternalData, ModelTooLarge, NotOnnx
from pipeline import archives
from pipeline.archives import is_archive, self_contained, unpacked


@pytest.fixture
def saved(tmp_path: Path, model: bytes) -> Path:
    """The network as exporters save a large one: two tensors lie in `digits.onnx.data`."""
    path = tmp_path / "digits.onnx"
    proto = onnx.load_from_string(model)
    onnx.save_model(proto, path, save_as_external_data=True, location="digits.onnx.data", size_threshold=64)
    assert (tmp_path / "digits.onnx.data").exists()
    return path


def packed(target: Path, files: dict[str, bytes | Path], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, contents in files.items():
            archive.writestr(name, contents if isinstance(contents, bytes) else contents.read_bytes())
    return target


@pytest.mark.parametrize("folder", ["", "export/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_becomes_the_model_that_it_holds(
    saved: Path, model: bytes, tmp_path: Path, folder: str, method: int
) -> None:
    files: dict[str, bytes | Path] = {
        f"{folder}digits.onnx": saved,
        f"{folder}digits.onnx.data": saved.with_name("digits.onnx.data"),
        "__MACOSX/._digits.onnx": b"junk",
    }
    path = packed(tmp_path / "model.zip", files, method)
    assert is_archive(path)
    assert onnx.load(unpacked(path, tmp_path / "whole.onnx")) == onnx.load_from_string(model)
    assert onnx.load_from_string(self_contained(saved)) == onnx.load_from_string(model)


def test_a_model_of_one_file_or_of_none_is_left_alone(tmp_path: Path, model: bytes) -> None:
    for contents in (model, b"nonsense"):
        (tmp_path / "one.onnx").write_bytes(contents)
        assert self_contained(tmp_path / "one.onnx") is None
        assert not is_archive(tmp_path / "one.onnx")


def test_data_that_are_missing_beside_the_model_are_named(saved: Path) -> None:
    saved.with_name("digits.onnx.data").unlink()
    with pytest.raises(ExternalData, match=r"'digits\.onnx\.data', which did not come along \(what came: nothing\)"):
        self_contained(saved)


def test_archives_that_are_no_model_say_why(saved: Path, tmp_path: Path) -> None:
    target = tmp_path / "whole.onnx"

    def refused(files: dict[str, bytes | Path], error: type[ValueError], text: str) -> None:
        with pytest.raises(error, match=text):
            unpacked(packed(tmp_path / "odd.zip", files), target)
        assert not target.exists()

    refused({"data.pkl": b"x"}, NotOnnx, "zip archive without an .onnx file")
    refused({"a.onnx": saved, "b/b.onnx": saved}, ExternalData, r"holds 2 models: a\.onnx, b/b\.onnx")
    refused({"digits.onnx": saved}, ExternalData, "did not come along")
    refused({"digits.onnx": saved, "../digits.onnx.data": b""}, ExternalData, "did not come along")
    broken = packed(tmp_path / "cut.zip", {"digits.onnx": saved}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(broken[:-30])
    with pytest.raises(NotOnnx, match="archive cannot be read"):
        unpacked(tmp_path / "cut.zip", target)


def test_an_archive_that_expands_to_too_much_is_refused_unread(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path / "bomb.zip", {"digits.onnx": saved, "digits.onnx.data": bytes(1 << 24)})
    monkeypatch.setattr(archives, "AdmissionLimits", lambda: AdmissionLimits(max_model_bytes=1 << 20))
    with pytest.raises(ModelTooLarge, match="expands to 16,7"):
        unpacked(path, tmp_path / "whole.onnx")


def test_two_files_of_one_name_are_refused(saved: Path, tmp_path: Path) -> None:
    path = packed(tmp_path / "two.zip", {"digits.onnx": saved})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("digits.onnx", b"")
    with pytest.raises(ExternalData, match=r"two files 'digits\.onnx'"):
        unpacked(path, tmp_path / "whole.onnx")


def test_a_job_takes_an_archive_as_it_takes_the_file(job, model, saved, samples, tmp_path):
    archive = packed(
        tmp_path / "model.zip", {"digits.onnx": saved, "digits.onnx.data": saved.with_name("digits.onnx.data")}
    )
    request = {"weights": {"bits": [8]}, "sensitivity": {"method": "measured"}}
    results = [job(contents, samples, request).run() for contents in (model, archive.read_bytes())]
    # but for the digest of the upload, which the file names
    plain, unpacked_ = (onnx.load_from_string(result.artifacts["model"]).graph for result in results)
    assert plain == unpacked_
    assert results[1].outcome == "met"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("is_damaged", [False, True])
def test_other_compressions_are_refused_before_they_are_run(
    saved: Path, tmp_path: Path, method: int, is_damaged: bool
) -> None:
    path = packed(tmp_path / "model.zip", {"digits.onnx": saved}, method)
    if is_damaged:
        contents = bytearray(path.read_bytes())
        contents[60:90] = bytes(30)
        path.write_bytes(contents)
    with pytest.raises(NotOnnx, match="compressed in an unusual way"):
        unpacked(path, tmp_path / "whole.onnx")
