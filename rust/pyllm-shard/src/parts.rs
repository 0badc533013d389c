//! Row groups to files, in order; a finished part goes into the journal at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;
use sha2::{Digest, Sha256};

use crate::encode::{Encoder, RowGroup};
use crate::error::ShardError;
use crate::folder::{Folder, Journal, part_name};
use crate::manifest::{Part, Place};
use crate::stored::hex;

/// What is known of a part before its file is finished.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Contents {
    pub(crate) rows: u64,
    pub(crate) first: Place,
    pub(crate) last: Place,
    pub(crate) content_sha256: String,
}

/// A row group that was encoded for a part.
pub(crate) struct Encoded {
    pub(crate) part: u64,
    /// None where a part ends whose rows are all written.
    pub(crate) group: Option<RowGroup>,
    /// Given with the last row group of a part.
    pub(crate) ends: Option<Contents>,
}

struct DigestingFile {
    file: File,
    digest: Sha256,
    bytes: u64,
}

impl Write for DigestingFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.file.write(data)?;
        self.digest.update(&data[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes parts one after the other.
pub(crate) struct PartWriter<'a> {
    folder: &'a Folder,
    encoder: &'a Encoder,
    journal: Journal,
    open: Option<(PathBuf, SerializedFileWriter<DigestingFile>)>,
    finished: BTreeMap<u64, Part>,
}

impl<'a> PartWriter<'a> {
    /// `finished` are parts of an earlier run that are not written again.
    pub(crate) fn new(
        folder: &'a Folder,
        encoder: &'a Encoder,
        journal: Journal,
        finished: BTreeMap<u64, Part>,
    ) -> Self {
        Self { folder, encoder, journal, open: None, finished }
    }

    pub(crate) fn append(&mut self, encoded: Encoded) -> Result<(), ShardError> {
        let (path, mut writer) = match self.open.take() {
            Some(open) => open,
            None => self.create(encoded.part)?,
        };
        if let Some(group) = encoded.group {
            add_group(&mut writer, group).map_err(|error| failed(&path, &error))?;
        }
        match encoded.ends {
            None => self.open = Some((path, writer)),
            Some(contents) => self.close(encoded.part, &path, writer, contents)?,
        }
        Ok(())
    }

    /// Whether a part is finished.
    pub(crate) fn has(&self, part: u64) -> bool {
        self.finished.contains_key(&part)
    }

    pub(crate) fn into_parts(self) -> BTreeMap<u64, Part> {
        self.finished
    }

    fn create(&self, part: u64) -> Result<(PathBuf, SerializedFileWriter<DigestingFile>), ShardError> {
        let name = part_name(part);
        // Messages show the name that the user knows.
        let path = self.folder.part(&name);
        let file = File::create(self.folder.hidden(&name)).map_err(|error| ShardError::write(&path, &error))?;
        let sink = DigestingFile { file, digest: Sha256::new(), bytes: 0 };
        let writer = SerializedFileWriter::new(sink, self.encoder.root(), self.encoder.properties());
        let writer = writer.map_err(|error| failed(&path, &error))?;
        Ok((path, writer))
    }

    fn close(
        &mut self,
        place: u64,
        path: &Path,
        writer: SerializedFileWriter<DigestingFile>,
        contents: Contents,
    ) -> Result<(), ShardError> {
        let sink = writer.into_inner().map_err(|error| failed(path, &error))?;
        let part = Part {
            name: part_name(place),
            rows: contents.rows,
            first: contents.first,
            last: contents.last,
            bytes: sink.bytes,
            sha256: hex(&sink.digest.finalize()),
            content_sha256: contents.content_sha256,
        };
        self.journal.line(&part)?;
        self.finished.insert(place, part);
        Ok(())
    }
}

fn add_group(writer: &mut SerializedFileWriter<DigestingFile>, group: RowGroup) -> Result<(), ParquetError> {
    let mut open = writer.next_row_group()?;
    for chunk in group {
        chunk.append_to_row_group(&mut open)?;
    }
    open.close()?;
    Ok(())
}

/// What failed is either the system, which has its own words, or a bug.
fn failed(path: &Path, error: &ParquetError) -> ShardError {
    if let ParquetError::External(inner) = error
        && let Some(system) = inner.downcast_ref::<io::Error>()
    {
        return ShardError::write(path, system);
    }
    ShardError::Write { path: path.to_owned(), reason: error.to_string() }
}
