"""The tables of a journal, and the queries that several of its methods share."""

FORMAT = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
    name BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, model TEXT, done INTEGER, reason TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS windows (
    name BLOB, number INTEGER, start_s REAL, end_s REAL, probabilities BLOB,
    PRIMARY KEY (name, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS left_out (name BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outputs (path BLOB PRIMARY KEY, checksum INTEGER) WITHOUT ROWID;
CREATE TEMP TABLE noted (name BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE taken (name BLOB PRIMARY KEY) WITHOUT ROWID;
"""
COLUMNS = {
    "files": ", size, mtime_ns, model, done, reason",
    "windows": ", number, start_s, end_s, probabilities",
    "left_out": "",
}
"""Columns besides the name, for tables with rows per file."""
IN_RESULTS = "name NOT IN (SELECT name FROM left_out)"
LABELLED = f"SELECT name FROM files WHERE done = 1 AND reason = '' AND {IN_RESULTS} ORDER BY name"
GOOD = "({0}.done = 1 AND {0}.reason = '' AND {0}.name NOT IN (SELECT name FROM {1}.left_out))"
TAKEN = f"""
INSERT INTO temp.taken
SELECT theirs.name FROM other.files AS theirs LEFT JOIN main.files AS ours
ON ours.name = whole(theirs.name)
WHERE ours.name IS NULL OR NOT {GOOD.format("ours", "main")}
OR ({GOOD.format("theirs", "other")} AND theirs.mtime_ns >= ours.mtime_ns)
"""
"""Selects the files to merge from the attached journal `other`."""
