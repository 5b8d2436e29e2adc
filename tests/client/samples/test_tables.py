"""Tables, texts and folders of arrays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from bitbudget_client.samples import SampleOptions, SamplesRefused, prepare, prepared, read

CSV = "a,b,y,class\n1,2.5,7,x\n3,4,8,z\n5,6,9,x\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "t.csv").write_text(CSV)
    return tmp_path / "t.csv"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "good", "bad", "film"]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


def test_columns_of_numbers_are_one_input(table: Path) -> None:
    arrays = read(table, label_column="class", target_columns=("y",))
    assert arrays["features"].tolist() == [[1, 2.5], [3, 4], [5, 6]]
    assert arrays["features"].dtype == np.float32
    assert arrays["labels"].tolist() == [0, 1, 0]
    assert arrays["targets"].tolist() == [[7], [8], [9]]
    assert prepare(table, SampleOptions(label_column="class")).classes == ("x", "z")
    assert read(table, columns=("b",), label_column="class", input_names=("x",))["x"].tolist() == [[2.5], [4], [6]]


def test_columns_of_numbers_are_inputs_of_their_own(table: Path) -> None:
    arrays = read(table, label_column="class", table="columns")
    assert {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == {
        "a": ("int64", (3, 1)),
        "b": ("float32", (3, 1)),
        "y": ("int64", (3, 1)),
        "labels": ("int64", (3,)),
    }


def test_other_separators_and_json_lines(tmp_path: Path, table: Path) -> None:
    (tmp_path / "t.tsv").write_text(CSV.replace(",", "\t"))
    (tmp_path / "t.jsonl").write_text(
        '{"a": 1, "b": 2.5, "class": "x"}\n\n{"a": 3, "b": 4, "class": "z"}\n{"a": 5, "b": 6, "class": "x"}\n'
    )
    for name, columns in (("t.tsv", ("a", "b")), ("t.jsonl", ())):
        arrays = read(tmp_path / name, label_column="class", columns=columns)
        assert np.array_equal(arrays["features"], read(table, columns=("a", "b"))["features"])


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (CSV, {}, "row 1: column 'class' holds 'x', expected a number"),
        (CSV, {"label_column": "label"}, "no column 'label'; it has 'a', 'b', 'y', 'class'"),
        ("a,b\n1,2\n1,2,3\n", {}, "line 3 has another number of fields"),
        ("a,b\n1,2\n1\n", {}, "line 3 has another number of fields"),
        ("a,b\n", {}, "has no rows"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, text: str, options: dict[str, str], said: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(SamplesRefused) as refused:
        read(tmp_path / "t.csv", **options)
    assert said in str(refused.value)


def test_texts_are_tokens_of_one_length(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "t.csv").write_text('text,label\ngood film,1\n"bad film, bad film",0\n')
    made = prepare(tmp_path / "t.csv", SampleOptions(tokenizer=tokenizer, max_length=5, label_column="label"))
    assert made.arrays["input_ids"].tolist() == [[1, 4, 6, 2, 0], [1, 5, 6, 3, 2]]
    assert made.arrays["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert made.arrays["labels"].tolist() == [1, 0]
    assert "2 texts of 'text' as 5 tokens" in made.notes[0]
    assert "1 of them cut" in made.notes[0]


def test_the_inputs_of_the_network_say_what_texts_give(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "t.tsv").write_text("q\ta\ngood\tbad film\n")
    given = {"tokenizer": tokenizer.parent, "max_length": 8, "text_columns": ("q", "a")}
    names = ("input_ids", "token_type_ids", "attention_mask")
    arrays = read(tmp_path / "t.tsv", **given, input_names=names)
    assert tuple(arrays) == names
    assert arrays["input_ids"].tolist() == [[1, 4, 2, 5, 6, 2, 0, 0]]
    assert arrays["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1, 0, 0]]
    assert list(read(tmp_path / "t.tsv", **given, input_names=("tokens",))) == ["tokens"]
    with pytest.raises(SamplesRefused, match="'position_ids' is"):
        read(tmp_path / "t.tsv", **given, input_names=("input_ids", "position_ids"))


def test_what_texts_need_is_asked_for(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "t.txt").write_text("good film\n\nbad film\n")
    assert len(read(tmp_path / "t.txt", tokenizer=tokenizer, max_length=4)["input_ids"]) == 2
    with pytest.raises(SamplesRefused, match="--max-length is not stated"):
        read(tmp_path / "t.txt", tokenizer=tokenizer)
    with pytest.raises(SamplesRefused, match="--tokenizer"):
        read(tmp_path / "t.txt")
    bare = tmp_path / "bare.json"
    Tokenizer(models.WordLevel({"good": 0}, unk_token="good")).save(str(bare))
    with pytest.raises(SamplesRefused, match="does not say which token"):
        read(tmp_path / "t.txt", tokenizer=bare, max_length=4)
    (tmp_path / "t.csv").write_text("a,b\nx,y\n")
    with pytest.raises(SamplesRefused, match="--text-column"):
        read(tmp_path / "t.csv", tokenizer=tokenizer, max_length=4)


def test_a_folder_of_arrays_is_packed_with_its_groups(tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    for name in ("x", "short/ids", "long/ids"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", np.arange(6))
    with np.load(prepared(folder, tmp_path / "out.npz")) as saved:
        assert set(saved) == {"x", "short/ids", "long/ids"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(SamplesRefused, match="holds neither"):
        read(tmp_path / "empty")


def test_files_of_arrays_are_given_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert prepared(tmp_path / "a.parquet", tmp_path / "out.npz") == tmp_path / "a.parquet"
    assert not (tmp_path / "out.npz").exists()


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, table: Path) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(SamplesRefused, match=r"pip install 'bitbudget-client\[samples\]'"):
        read(table, label_column="class")


def test_the_package_loads_nothing_before_it_reads() -> None:
    program = (
        "import sys, bitbudget_client.samples; print([m for m in ('numpy', 'PIL', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_client_says_how_to_send_what_is_no_file_of_arrays(table: Path) -> None:
    from bitbudget_client.sources import contents_of

    for path in (table, table.parent):
        with pytest.raises(TypeError, match=r"bitbudget_client\.samples\.read"), contents_of("dataset", path):
            pass
