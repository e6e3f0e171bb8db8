"""A table is read whole or refused with one sentence that says where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler

from lrtune.config.study_file import read_study
from lrtune.errors import DataError
from lrtune.training.estimators.csv_reader import MOST_COLUMNS, read_csv
from lrtune.training.estimators.data_file import BUNDLED, kind_of, load_table, prepared

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [f"{i},{i * 0.5},{'ab'[i % 2]}" for i in range(20)]


def write(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table(*, header: str = "x,z,y", change: dict[int, str] | None = None, rows: list[str] = ROWS) -> str:
    lines = [header, *rows]
    for line, text in (change or {}).items():
        lines[line - 1] = text
    return "\n".join(lines) + "\n"


def refusal(folder: Path, text: str | bytes, kind: str = "classification", **options: object) -> str:
    write(folder, text)
    with pytest.raises(DataError) as caught:
        load_table("t.csv", folder=folder, kind=kind, **{"target": "y", **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_numbers_are_features_and_text_is_the_label(tmp_path: Path) -> None:
    write(tmp_path, table())
    got = load_table("t.csv", folder=tmp_path, kind="classification", target="y")
    assert got.X.shape == (20, 2)
    assert got.X.dtype == np.float64
    assert got.y.tolist() == ["a", "b"] * 10
    assert got.weight is None
    assert got.text == ()


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators_and_byte_order_marks(tmp_path: Path, separator: str, mark: str) -> None:
    write(tmp_path, mark + table().replace(",", separator))
    got = load_table("t.csv", folder=tmp_path, kind="regression", target="z", drop=["y"])
    np.testing.assert_array_equal(got.X[:, 0], np.arange(20))
    np.testing.assert_array_equal(got.y, np.arange(20) / 2)


def test_a_decimal_comma_goes_with_semicolons(tmp_path: Path) -> None:
    write(tmp_path, table(rows=[f"{i};{i},5;{i % 2}" for i in range(20)], header="x;z;y"))
    got = load_table("t.csv", folder=tmp_path, kind="classification", target="y")
    np.testing.assert_array_equal(got.X[:, 1], np.arange(20) + 0.5)


def test_quotes_hold_separators_and_newlines(tmp_path: Path) -> None:
    write(tmp_path, table(change={2: '0,0.0,"a"'}, header='"x, the\nfirst",z,y'))
    frame = read_csv(tmp_path / "t.csv")
    assert list(frame.columns) == ["x, the\nfirst", "z", "y"]


def test_weights_and_dropped_columns(tmp_path: Path) -> None:
    write(tmp_path, table())
    got = load_table("t.csv", folder=tmp_path, kind="classification", target="y", weight="z")
    assert got.X.shape == (20, 1)
    np.testing.assert_array_equal(got.weight, np.arange(20) / 2)


@pytest.mark.parametrize("missing", ["nan", "", "NA"])
def test_a_missing_target_is_counted_and_located(tmp_path: Path, missing: str) -> None:
    said = refusal(tmp_path, table(change={7: f"5,2.5,{missing}", 9: f"7,3.5,{missing}"}))
    assert "column y: 2 missing values, first at line 7" in said


def test_lines_are_counted_over_blank_lines_and_long_fields(tmp_path: Path) -> None:
    text = table(change={2: '\n0,0.0,"a\na"', 7: "5,,b", 20: "18,9.0,b\n18,9.0,c\n18,9.0,a\na"})
    assert "t.csv:25: 1 fields" in refusal(tmp_path, text)  # two lines more before, three within
    assert "column z: 1 missing value, first at line 9" in refusal(tmp_path, text.replace("a\na\n", "a\n"))


@pytest.mark.parametrize("infinite", ["inf", "-inf", "1e999"])
def test_an_infinite_value_is_located(tmp_path: Path, infinite: str) -> None:
    assert "column z: an infinite value at line 4" in refusal(tmp_path, table(change={4: f"2,{infinite},a"}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("\n\n", "only empty lines"),
        ("x,z,y\n", "no rows, at least 10"),
        ("x,z,y\n1,2,a\n", "1 row, at least 10"),
        (table(rows=[f"{i},1,a" for i in range(20)]), "only one class (a)"),
        (table(change={5: "3,1.5,c"}), "class c has 1 row, at least 2"),
        (table(change={5: "3,1.5"}), "t.csv:5: 2 fields where the header has 3"),
        (table(change={5: "3,1.5,a,b"}), "t.csv:5: 4 fields where the header has 3"),
        (table(header="x,x,y"), "t.csv:1: columns 1 and 2 are both called 'x'"),
        (table(header="x,,y"), "t.csv:1: column 2 has no name"),
        (table(header="1,2,3"), "t.csv:1: only numbers where the column names should be"),
        (table(change={6: '4,"2.0,a'}), "t.csv:6: a quote that is opened in this row is never closed"),
        (table(change={6: '4,"2"0,a'}), "t.csv:6: not CSV"),
        (table(change={6: f"4,{'2' * 140_000},a"}), "t.csv:6: a field of more than 131072 characters"),
        (table(change={6: "4,oops,a"}), "column z: 'oops' among numbers at line 6"),
        (table().replace("4,2.0", "4,2\0").encode(), "t.csv:6: a NUL byte in column 4"),
        (table().encode("utf-16"), "t.csv:1: the file is UTF-16"),
        (table(change={6: "4,2.0,\xe9"}).encode("latin-1"), "t.csv:6: not UTF-8 (byte 0xe9 in column 7)"),
        (table(header="x,z,why"), "there is no column 'y' (target); there are x, z, why"),
        (table(header="x,z,yy"), "did you mean 'yy'?"),
    ],
)
def test_each_malformed_table_has_its_sentence(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in refusal(tmp_path, text)


def test_many_columns_are_refused_by_a_limit(tmp_path: Path) -> None:
    head = ",".join(f"c{i}" for i in range(MOST_COLUMNS + 1))
    row = ",".join(["1"] * (MOST_COLUMNS + 1))
    assert f"{MOST_COLUMNS + 1} columns, at most" in refusal(tmp_path, f"{head}\n{row}\n{row}\n")


def test_a_classifier_takes_no_fractions_and_a_regressor_no_text(tmp_path: Path) -> None:
    assert "a classifier needs classes" in refusal(tmp_path, table(), target="z")
    assert "a regressor needs numbers (got 'a')" in refusal(tmp_path, table(), kind="regression")
    constant = table(rows=["1,2,3"] * 20)
    assert "every value is 3" in refusal(tmp_path, constant, kind="regression")


def test_columns_that_are_asked_for_have_to_be_there(tmp_path: Path) -> None:
    assert "target is missing" in refusal(tmp_path, table(), target=None)
    assert "no column 'zz' (weight); did you mean 'z'?" in refusal(tmp_path, table(), weight="zz")
    assert "no column 'id' (drop)" in refusal(tmp_path, table(), drop=["id"])
    assert "no column is left" in refusal(tmp_path, table(), drop=["x", "z"])


def test_a_column_has_one_role(tmp_path: Path) -> None:
    refused = refusal(tmp_path, table(), weight="y")
    assert refused.endswith("column y is the target, so it cannot hold the weights; name another one")
    assert "column y holds the target, so it cannot be dropped" in refusal(tmp_path, table(), drop=["y"])
    assert "column z holds the weights, so it cannot be dropped" in refusal(tmp_path, table(), weight="z", drop=["z"])


def test_weights_are_numbers_of_zero_or_more(tmp_path: Path) -> None:
    assert "weights must be numbers" in refusal(tmp_path, table(), kind="regression", weight="y", target="x")
    assert "a negative weight at line 3" in refusal(tmp_path, table(change={3: "1,-1,b"}), weight="z")
    assert "all weights are zero" in refusal(tmp_path, table(rows=["1,0,a", "2,0,b"] * 10), weight="z")


def test_text_with_few_levels_is_encoded_and_with_many_refused(tmp_path: Path) -> None:
    colours = table(rows=[f"{i},{['red', 'green', 'blue'][i % 3]},{i % 2}" for i in range(30)])
    write(tmp_path, colours)
    got = load_table("t.csv", folder=tmp_path, kind="classification", target="y")
    assert got.text == ("z",)
    model = prepared(SGDClassifier(), got).fit(got.X, got.y)
    assert model[0].transform(got.X).shape == (30, 4)
    names = table(rows=[f"{i},name{i},{i % 2}" for i in range(101)])
    assert "101 different texts, at most 100" in refusal(tmp_path, names)


def test_a_pipeline_of_ones_own_stays(tmp_path: Path) -> None:
    write(tmp_path, table())
    got = load_table("t.csv", folder=tmp_path, kind="classification", target="y")
    own = make_pipeline(MinMaxScaler(), SGDClassifier())
    assert prepared(own, got) is own
    assert isinstance(prepared(SGDClassifier(), got), Pipeline)


def test_parquet_is_read_and_rows_are_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.arange(20.0), "y": ["a", "b"] * 10})
    frame.to_parquet(tmp_path / "t.parquet")
    got = load_table("t.parquet", folder=tmp_path, kind="classification", target="y")
    assert got.X.shape == (20, 1)
    frame.loc[3, "x"] = np.nan
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column x: 1 missing value, first in row 4"):
        load_table("t.parquet", folder=tmp_path, kind="classification", target="y")
    write(tmp_path, "x,y\n", "fake.parquet")
    with pytest.raises(DataError, match="not a Parquet file"):
        load_table("fake.parquet", folder=tmp_path, kind="classification", target="y")


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_data_sets_load(tmp_path: Path, name: str) -> None:
    kind = "regression" if name == "diabetes" else "classification"
    got = load_table(name, folder=tmp_path, kind=kind)
    assert len(got.X) == len(got.y) > 100
    with pytest.raises(DataError, match="has its own target"):
        load_table(name, folder=tmp_path, kind=kind, target="y")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.csv; give a CSV"):
        load_table("nowhere.csv", folder=tmp_path, kind="regression", target="y")
    with pytest.raises(DataError, match="not a regular file"):
        load_table(".", folder=tmp_path, kind="regression", target="y")


def test_the_estimator_says_what_it_learns() -> None:
    assert kind_of(SGDClassifier()) == "classification"
    assert kind_of(make_pipeline(MinMaxScaler(), SGDRegressor())) == "regression"
    with pytest.raises(DataError, match="neither a classifier nor a regressor"):
        kind_of(MinMaxScaler())


# -- a pipeline of the user's own --------------------------------------------------------------------------------------

PREPARES = """\
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

def days(frame):
    return (pd.to_datetime(frame["day"]) - pd.Timestamp("2026-01-01")).dt.days.to_frame()

columns = ColumnTransformer([
    ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["x"]),
    ("days", make_pipeline(FunctionTransformer(days), StandardScaler()), ["day"]),
    ("texts", FunctionTransformer(lambda frame: frame.map(len)), ["text"]),
])
pipeline = make_pipeline(columns, SGDClassifier())

def fails(frame):
    raise KeyError("no such column\\nin this table")

broken = make_pipeline(FunctionTransformer(fails), SGDClassifier())
"""
RAW = [f"{i if i % 5 else ''},2026-01-{i % 28 + 1:02},{'text' * i} {i},{'ab'[i % 2]}" for i in range(120)]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_pipeline_gets_the_table_as_it_was_read(tmp_path: Path, form: str) -> None:
    file = write(tmp_path, table(header="x,day,text,y", rows=RAW))
    if form == "parquet":
        pytest.importorskip("pyarrow")
        frame = pd.read_csv(file, parse_dates=["day"])
        file = tmp_path / "t.parquet"
        frame.to_parquet(file)
    (tmp_path / "model.py").write_text(PREPARES)
    told = f'estimator = "model.py:pipeline"\ndata = "{file.name}"\ntarget = "y"\n'
    toml = f"[study]\nepochs = 2\n[train]\n{told}"
    (tmp_path / "study.toml").write_text(toml + "[space]\nlr = [1e-3, 1.0]\n")
    trainer = read_study(tmp_path / "study.toml").make_trainer()
    assert trainer.task.train.X.shape == (90, 3)
    got = load_table(file.name, folder=tmp_path, kind="classification", target="y", raw=True)
    assert list(got.X.columns) == ["x", "day", "text"]
    assert got.X["x"].isna().sum() == 24
    (tmp_path / "study.toml").write_text((tmp_path / "study.toml").read_text().replace(":pipeline", ":broken"))
    with pytest.raises(DataError, match="earlier steps of the pipeline cannot take this table"):
        read_study(tmp_path / "study.toml").make_trainer()


def test_without_a_pipeline_all_refused_columns_are_named_at_once(tmp_path: Path) -> None:
    said = refusal(tmp_path, table(header="x,day,text,y", rows=RAW))
    assert said == (
        "t.csv: column x: 24 missing values, first at line 2; fill them in, or leave these rows or the column out; "
        "column text: 120 different texts, at most 100 are one-hot encoded; encode it, or name it in drop"
    )
    rows = ["," * 15 + "ab"[i % 2] for i in range(20)]
    many = refusal(tmp_path, table(header=",".join([*"abcdefghijklmno", "y"]), rows=rows))
    assert many.count("missing values") == 10
    assert many.endswith("; and more columns")


@pytest.mark.parametrize("row", ["1,2026-01-01,a,", "1,2026-01-01,a,c"])
def test_a_pipeline_leaves_the_target_to_us(tmp_path: Path, row: str) -> None:
    said = refusal(tmp_path, table(header="x,day,text,y", rows=[*RAW, row]), raw=True)
    assert "column y: 1 missing value, first at line 122" in said or "class c has 1 row" in said


def test_numbers_stored_as_text_and_other_types_of_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"y": ["a", "b"] * 10, "flag": [True, False] * 10, "level": pd.Categorical(["p", "q"] * 10)})
    frame.to_parquet(tmp_path / "t.parquet")
    got = load_table("t.parquet", folder=tmp_path, kind="classification", target="y")
    assert got.text == ("level",)
    frame.assign(n=[str(i) for i in range(20)]).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column n: numbers that are stored as text; store them as numbers"):
        load_table("t.parquet", folder=tmp_path, kind="classification", target="y")
