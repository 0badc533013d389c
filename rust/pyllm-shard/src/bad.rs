//! Bad rows to a file, one JSON object a line, whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use pyllm_examples::BadRow;
use serde::Serialize;

use crate::error::ShardError;

/// Where bad rows go. Without a path they are only counted.
pub(crate) struct BadRows {
    sink: Option<Sink>,
}

struct Sink {
    shown: PathBuf,
    /// The temporary name and the one it will get; a device or a pipe has no other name.
    rename: Option<(PathBuf, PathBuf)>,
    file: BufWriter<File>,
}

#[derive(Serialize)]
struct Collected<'a> {
    source_file: &'a str,
    row: u64,
    line: Option<u64>,
    field: Option<&'a str>,
    reason: &'a str,
    raw: &'a str,
}

impl BadRows {
    /// Opens a temporary file beside the wanted one.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, ShardError> {
        let Some(path) = path else { return Ok(Self { sink: None }) };
        let failed = |error: io::Error| ShardError::write(path, &error);
        // A link is followed: renaming over it would replace the link instead.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let special = fs::metadata(&target).is_ok_and(|about| !about.is_file() && !about.is_dir());
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let partial = target.with_file_name(format!(".{name}.{}.partial", std::process::id()));
        let (opened, rename) = if special { (target, None) } else { (partial.clone(), Some((partial, target))) };
        let file = if special { File::options().write(true).open(&opened) } else { File::create(&opened) };
        let file = BufWriter::new(file.map_err(failed)?);
        Ok(Self { sink: Some(Sink { shown: path.to_owned(), rename, file }) })
    }

    /// Adds a row whose place is counted in its file.
    pub(crate) fn add(&mut self, file_name: &str, bad: &BadRow) -> Result<(), ShardError> {
        let Some(sink) = &mut self.sink else { return Ok(()) };
        let line = Collected {
            source_file: file_name,
            row: bad.row,
            line: bad.line,
            field: bad.field.as_deref(),
            reason: &bad.reason,
            raw: &bad.raw,
        };
        let mut text = Vec::new();
        line.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Spaced))
            .map_err(|error| ShardError::Internal(error.to_string()))?;
        text.push(b'\n');
        sink.file.write_all(&text).map_err(|error| ShardError::write(&sink.shown, &error))
    }

    /// Syncs the file and gives it its name.
    pub(crate) fn finish(mut self) -> Result<(), ShardError> {
        let Some(sink) = &mut self.sink else { return Ok(()) };
        let failed = |error: io::Error| ShardError::write(&sink.shown, &error);
        sink.file.flush().map_err(failed)?;
        if let Some((partial, target)) = &sink.rename {
            sink.file.get_ref().sync_all().map_err(failed)?;
            fs::rename(partial, target).map_err(failed)?;
        }
        sink.rename = None;
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some((partial, _)) = &self.rename {
            drop(fs::remove_file(partial));
        }
    }
}

/// `, ` and `: ` between values, as Python writes JSON.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_python_reader() {
        let folder = std::env::temp_dir().join(format!("pyllm-bad-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("bad.jsonl");
        let mut rows = BadRows::open(Some(&path)).unwrap();
        let bad = BadRow {
            row: 3,
            line: Some(4),
            field: None,
            reason: "is not valid JSON".to_owned(),
            raw: "{\"é\u{1}\t".to_owned(),
            wrong_kind: false,
        };
        rows.add("a.jsonl", &bad).unwrap();
        assert!(!path.exists());
        rows.finish().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let wanted = r#"{"source_file": "a.jsonl", "row": 3, "line": 4, "field": null, "reason": "is not valid JSON", "raw": "{\"é\u0001\t"}"#;
        assert_eq!(text, format!("{wanted}\n"));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }
}
