"""Tables beside images: JSON lines, JSON, CSV, TSV, Parquet and lists of names."""

import csv
import io
import json
from pathlib import PurePosixPath

TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".lst")
# other formats of such tables, which are not read
OTHER_TABLES = (".xlsx", ".xls", ".ods", ".pkl", ".pickle", ".npy", ".npz", ".yaml", ".yml", ".feather", ".mat")


def read_table(data: bytes, name: str) -> list[dict]:
    """The rows of a table by column; of a list of names, rows with the one column `file_name`.

    Values are strings, or of the types in JSON and Parquet. Columns and cells are stripped; blank lines and a byte
    order mark are skipped.

    Raises:
        ValueError: naming the table, and the line if there is one.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".parquet":
        return _parquet(data, name)
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name!r} must be text in UTF-8, but is not: {error}") from error
    if "\0" in text:
        raise ValueError(f"{name!r} must be text, but holds zero bytes.")
    if suffix == ".jsonl":
        return _json_lines(text, name)
    if suffix == ".json":
        return _json(text, name)
    if suffix in (".txt", ".lst"):
        return [{"file_name": line.strip()} for line in text.splitlines() if line.strip()]
    return _separated(text, name, suffix)


def _json_lines(text: str, name: str) -> list[dict]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name!r}, line {number}, cannot be used: {error!r}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{name!r}, line {number}, cannot be used: it must be an object, but is {row!r}")
        rows.append(row)
    return rows


def _json(text: str, name: str) -> list[dict]:
    """Rows from a list of objects, or from an object with a list of names per split; none from other JSON."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name!r} is not JSON: {error}") from error
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        return content
    if isinstance(content, dict) and content and all(isinstance(names, list) for names in content.values()):
        pairs = [(file, split) for split, names in content.items() for file in names]
        if all(isinstance(file, str) for file, _ in pairs):
            return [{"file_name": file, "split": split} for file, split in pairs]
    return []


def _separated(text: str, name: str, suffix: str) -> list[dict]:
    lines = [line for line in text.splitlines() if line.strip(" ,;\t")]
    if not lines:
        return []
    candidates = "\t" if suffix == ".tsv" else ",;\t"
    delimiter = max(candidates, key=lines[0].count)
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter, strict=True)
    try:
        header, *rows = ([cell.strip() for cell in row] for row in reader)
    except csv.Error as error:
        raise ValueError(f"{name!r}, line {reader.line_num}, cannot be used: {error}") from error
    if len(set(header)) < len(header):
        raise ValueError(f"{name!r} must have columns of different names, but has {', '.join(header)}.")
    for number, row in enumerate(rows, start=2):
        if len(row) > len(header):
            raise ValueError(f"{name!r}, row {number}, has {len(row)} cells under {len(header)} columns.")
    return [{key: cell for key, cell in zip(header, row, strict=False) if cell} for row in rows]


def _parquet(data: bytes, name: str) -> list[dict]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(io.BytesIO(data)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{name!r} cannot be read as Parquet: {error}") from error
