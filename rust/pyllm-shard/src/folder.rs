//! The folder of a run: names of its files, what may stand in it before, and what is taken away after a failure.
//!
//! Until everything is written, parts have hidden names. The journal beside them says which are finished, so that a
//! killed run can go on. The manifest is written last: a folder with a manifest is a finished run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ShardError;
use crate::manifest::{MANIFEST, Part};
use crate::stored::seal_of;

const JOURNAL: &str = ".shard-progress.jsonl";
const SPOOL: &str = ".shard-spool-";
const PARTIAL: &str = ".partial";

/// The first line of a journal: which work, and what was known when it was divided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Heading {
    /// Settings and inputs, with sizes and times of change.
    pub(crate) work: Value,
    /// Digest of the columns and the number of rows that the parts were written for.
    pub(crate) plan: String,
    /// Whether that was found out by reading everything, and not guessed.
    pub(crate) known: bool,
}

/// What an earlier run left of the same work.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Left {
    pub(crate) heading: Heading,
    pub(crate) parts: Vec<Part>,
}

/// A folder that gets shards.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the folder if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, ShardError> {
        fs::create_dir_all(path).map_err(|error| {
            let reason = if path.exists() { "it is no folder".to_owned() } else { crate::error::reason_of(&error) };
            ShardError::Write { path: path.to_owned(), reason }
        })?;
        Ok(Self { path: path.to_owned() })
    }

    pub(crate) fn part(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where a part stands until all are finished.
    pub(crate) fn hidden(&self, name: &str) -> PathBuf {
        self.path.join(format!(".{name}{PARTIAL}"))
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.path.join(MANIFEST)
    }

    /// Where bytes of the n-th input are kept that cannot be read twice or at random.
    pub(crate) fn spool(&self, input: usize) -> PathBuf {
        self.path.join(format!("{SPOOL}{input}{PARTIAL}"))
    }

    pub(crate) fn refuse(&self, problem: impl Into<String>, hint: &str) -> ShardError {
        ShardError::Taken { folder: self.path.display().to_string(), problem: problem.into(), hint: hint.to_owned() }
    }

    fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    fn names(&self) -> Result<Vec<String>, ShardError> {
        let failed = |error: io::Error| ShardError::read(&self.path.display().to_string(), &error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What a killed run left here, of whatever work.
    pub(crate) fn left(&self) -> Option<Left> {
        let mut lines = BufReader::new(File::open(self.journal()).ok()?).lines().map_while(Result::ok);
        let heading = serde_json::from_str(&lines.next()?).ok()?;
        // The last line may be torn.
        let parts = lines.map_while(|line| serde_json::from_str(&line).ok()).collect();
        Some(Left { heading, parts })
    }

    /// Refuses a folder in which parts stand that no killed run left.
    pub(crate) fn refuse_foreign(&self, left: Option<&Left>) -> Result<(), ShardError> {
        let ours = |name: &String| left.is_some_and(|left| left.parts.iter().any(|part| part.name == *name));
        match self.names()?.iter().find(|name| is_part(name) && !ours(name)) {
            None => Ok(()),
            Some(name) => Err(self.refuse(
                format!("holds `{name}`, but no {MANIFEST} that says what it is"),
                "name another folder, or empty this one",
            )),
        }
    }

    /// Whether a finished part still has the bytes it was written with, under its hidden or its last name.
    pub(crate) fn holds(&self, part: &Part) -> bool {
        let (hidden, last) = (self.hidden(&part.name), self.part(&part.name));
        if last.exists() && fs::rename(&last, &hidden).is_err() {
            return false;
        }
        seal_of(&hidden).is_ok_and(|seal| seal.bytes == part.bytes && seal.sha256 == part.sha256)
    }

    /// Begins a journal; the old one is gone.
    pub(crate) fn begin(&self, heading: &Heading, parts: &[Part]) -> Result<Journal, ShardError> {
        let path = self.journal();
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(&path);
        let mut journal = Journal { file: file.map_err(|error| ShardError::write(&path, &error))?, path };
        journal.line(heading)?;
        for part in parts {
            journal.line(part)?;
        }
        Ok(journal)
    }

    /// Gives the parts their names, then writes the manifest: from then on the run is finished.
    pub(crate) fn finish(&self, parts: &[Part], manifest: &str) -> Result<(), ShardError> {
        let path = self.manifest();
        let partial = self.hidden(MANIFEST);
        let failed = |error: io::Error| ShardError::write(&path, &error);
        let mut file = File::create(&partial).map_err(failed)?;
        file.write_all(manifest.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        for part in parts {
            let last = self.part(&part.name);
            fs::rename(self.hidden(&part.name), &last).map_err(|error| ShardError::write(&last, &error))?;
        }
        fs::rename(&partial, &path).map_err(failed)?;
        // Parts themselves are left to the system: the manifest has their digests, and syncing each one would make
        // the disk the pace of the whole run.
        File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(failed)?;
        self.remove(|name| name == JOURNAL || is_hidden(name));
        Ok(())
    }

    /// Takes away the spools only: what is finished stays for the next run.
    pub(crate) fn leave(&self) {
        self.remove(|name| name.starts_with(SPOOL));
    }

    /// Takes away everything a failed or replaced run wrote here; parts by their names only where `parts` lists them.
    pub(crate) fn clear(&self, parts: &[Part]) {
        let named = |name: &str| parts.iter().any(|part| part.name == name);
        self.remove(|name| name == JOURNAL || is_hidden(name) || named(name));
    }

    /// Removes the folder itself if it is empty.
    pub(crate) fn remove_empty(&self) {
        drop(fs::remove_dir(&self.path));
    }

    fn remove(&self, wanted: impl Fn(&str) -> bool) {
        for name in self.names().unwrap_or_default().iter().filter(|name| wanted(name)) {
            // Nothing more can be done about a file that does not go.
            drop(fs::remove_file(self.path.join(name)));
        }
    }
}

/// The list of finished parts on disk.
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    pub(crate) fn line(&mut self, value: &impl Serialize) -> Result<(), ShardError> {
        let mut line = serde_json::to_vec(value).map_err(|error| ShardError::Internal(error.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|error| ShardError::write(&self.path, &error))
    }
}

/// The name of the n-th part.
pub(crate) fn part_name(place: u64) -> String {
    format!("part-{place:05}.parquet")
}

fn is_part(name: &str) -> bool {
    name.starts_with("part-") && Path::new(name).extension().is_some_and(|ending| ending == "parquet")
}

fn is_hidden(name: &str) -> bool {
    let ours = name.starts_with(".part-") || name.starts_with(SPOOL) || name.starts_with(".manifest.json");
    ours && name.ends_with(PARTIAL)
}
