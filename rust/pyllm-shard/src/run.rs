//! A whole run: guess, read and write, look whether the guess was right, and finish or do it again.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::time::UNIX_EPOCH;

use pyllm_examples::Layout;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::bad::BadRows;
use crate::encode::Encoder;
use crate::error::ShardError;
use crate::folder::{Folder, Heading, Left};
use crate::guess::{Guess, guess};
use crate::manifest::{Column, InputFacts, MANIFEST, Manifest, ManifestSettings, Part, ShapeRows, Totals, VERSION};
use crate::numbering::{Numbering, Plan};
use crate::parts::PartWriter;
use crate::pass::{Output, Work, run as pass};
use crate::settings::{Division, Settings};
use crate::sources::Input;
use crate::stored::{Seal, hex, seal_of};

/// Bad rows of one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadInput {
    /// The input as it was named.
    pub shown: String,
    /// How many bad rows it has.
    pub bad_rows: u64,
    /// The first five, each with what is wrong.
    pub named: Vec<String>,
}

/// What a run did.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The folder held this very work already; nothing in it was touched.
    pub finished_before: bool,
    /// Parts that a killed run had finished and that were not written again.
    pub resumed_parts: usize,
    /// How often all inputs were read; more than once where the beginnings of files did not tell enough.
    pub passes: u32,
    /// The manifest as it stands in the folder.
    pub manifest: String,
    /// Inputs with bad rows, in order. Not known where the folder held this work already and nobody asked.
    pub bad: Vec<BadInput>,
    /// Columns whose names were taken, as (name in the data, name in the shards).
    pub renamed: Vec<(String, String)>,
    /// Score columns of an earlier run, which are left out.
    pub left_out: Vec<String>,
    /// Columns that hold values of different types and are kept as JSON text.
    pub mixed: Vec<String>,
}

/// Reads all inputs and writes their good rows as Parquet shards with a manifest.
///
/// The same inputs and settings give the same bytes for any number of threads, and after any number of interruptions.
///
/// # Errors
///
/// See [`ShardError`]. A failed run leaves no shard and no manifest; an interrupted one leaves hidden files from which
/// the next run goes on.
pub fn shard(settings: &Settings, interrupted: &(dyn Fn() -> bool + Sync)) -> Result<Summary, ShardError> {
    check(settings)?;
    let existed = settings.out.exists();
    let folder = Folder::open(&settings.out)?;
    let run = Run::new(settings, &folder, interrupted);
    let result = run.go();
    match &result {
        Err(error) if run.begun.get() && !matches!(error, ShardError::Interrupted) => {
            folder.clear(&run.begun_parts());
        }
        _ => folder.leave(),
    }
    if result.is_err() && !existed {
        folder.remove_empty();
    }
    result
}

fn check(settings: &Settings) -> Result<(), ShardError> {
    let (name, number) = match settings.division {
        Division::RowsPerShard(rows) => ("rows per shard", rows),
        Division::Shards(shards) => ("shards", shards),
    };
    if number == 0 {
        return Err(ShardError::Setting(format!("{name} is 0, but has to be 1 or more")));
    }
    if settings.inputs.is_empty() {
        return Err(ShardError::Setting("there is no input".to_owned()));
    }
    Ok(())
}

struct Run<'a> {
    settings: &'a Settings,
    folder: &'a Folder,
    interrupted: &'a (dyn Fn() -> bool + Sync),
    inputs: Vec<Input>,
    /// Whether files of this run stand in the folder.
    begun: Cell<bool>,
    passes: Cell<u32>,
}

/// What the last pass found.
struct Found {
    plan: Plan,
    totals: Totals,
    shapes: Vec<ShapeRows>,
    inputs: Vec<InputFacts>,
    bad: Vec<BadInput>,
    /// Given if everything was written as it is.
    parts: Option<BTreeMap<u64, Part>>,
}

impl<'a> Run<'a> {
    fn new(settings: &'a Settings, folder: &'a Folder, interrupted: &'a (dyn Fn() -> bool + Sync)) -> Self {
        let input = |(place, file): (usize, &crate::settings::InputFile)| Input {
            shown: file.shown.clone(),
            file_name: file.file_name.clone(),
            path: file.path.clone(),
            piped: file.piped,
            spool: folder.spool(settings.inputs.len() + place),
        };
        let inputs = settings.inputs.iter().enumerate().map(input).collect();
        Self { settings, folder, interrupted, inputs, begun: Cell::new(false), passes: Cell::new(0) }
    }

    fn go(&self) -> Result<Summary, ShardError> {
        let step: Value = serde_json::from_str(&self.settings.step)
            .map_err(|error| ShardError::Internal(format!("the provenance step is not JSON: {error}")))?;
        if self.folder.manifest().exists() {
            return self.finished(&step);
        }
        let left = self.folder.left();
        self.folder.refuse_foreign(left.as_ref())?;
        let Guess { plan, mut steps, rows_missing } = guess(self.settings, &self.inputs)?;
        steps.push(step);
        let work = self.work()?;
        let left = match left {
            Some(left) if left.heading.work == work => Some(left),
            other => {
                if let Some(other) = other {
                    self.folder.clear(&other.parts);
                }
                None
            }
        };
        // Parts of a run that knew everything fit what this one will know, too.
        let look_first = rows_missing || left.as_ref().is_some_and(|left| left.heading.known);
        self.until_right(plan, look_first, &work, left, &steps)
    }

    /// Passes over the inputs until one found what it was planned for.
    fn until_right(
        &self,
        guessed: Plan,
        look_first: bool,
        work: &Value,
        mut left: Option<Left>,
        steps: &[Value],
    ) -> Result<Summary, ShardError> {
        let (mut plan, mut writes, mut known) = (guessed, !look_first, false);
        let mut before: Option<Vec<InputFacts>> = None;
        loop {
            let mut resumed = BTreeMap::new();
            let heading = Heading { work: work.clone(), plan: digest_of(&plan), known };
            if writes && let Some(left) = left.take() {
                if left.heading.plan == heading.plan {
                    resumed = self.verified(&left.parts);
                } else {
                    self.folder.clear(&left.parts);
                }
            }
            let found = self.pass(&plan, writes.then_some(&heading), &resumed, steps)?;
            if let Some(before) = before.replace(found.inputs.clone()) {
                unchanged(&self.inputs, &before, &found.inputs)?;
            }
            if let Some(parts) = &found.parts {
                let manifest = self.manifest(&found, parts, steps)?;
                self.folder.finish(&found_parts(parts), &manifest)?;
                return Ok(self.summary(&found, manifest, resumed.len()));
            }
            (plan, writes, known) = (found.plan, true, true);
        }
    }

    fn pass(
        &self,
        plan: &Plan,
        heading: Option<&Heading>,
        resumed: &BTreeMap<u64, Part>,
        steps: &[Value],
    ) -> Result<Found, ShardError> {
        let Settings { division, dedup, strict, .. } = *self.settings;
        let bad_rows = BadRows::open(self.settings.bad_rows.as_deref())?;
        let numbering = Numbering::new(plan, division, &self.inputs, resumed, bad_rows)
            .dropping_duplicates(dedup)
            .strict(strict)
            .writing(heading.is_some());
        let encoder = heading.map(|_| {
            let metadata = json!({ "steps": steps }).to_string();
            Encoder::new(plan.layout.schema(), self.settings.compression, metadata)
        });
        let encoder = encoder.transpose()?;
        let output = match (&encoder, heading) {
            (Some(encoder), Some(heading)) => {
                self.begun.set(true);
                let journal = self.folder.begin(heading, &found_parts(resumed))?;
                Some(Output { encoder, writer: PartWriter::new(self.folder, encoder, journal, resumed.clone()) })
            }
            _ => None,
        };
        let work = Work {
            inputs: &self.inputs,
            plan,
            shape: self.settings.shape,
            threads: self.threads(),
            interrupted: self.interrupted,
        };
        self.passes.set(self.passes.get() + 1);
        let (mut numbering, parts) = pass(&work, numbering, output)?;
        // A table that only looked like one of ours has other bad rows when it is read as what it is.
        let settled = parts.is_some() || (numbering.own == plan.own && strict);
        if settled {
            numbering.settle_bad_rows()?;
        }
        Ok(self.found(&numbering, parts))
    }

    fn found(&self, numbering: &Numbering<'_>, parts: Option<BTreeMap<u64, Part>>) -> Found {
        let tallies = numbering.tallies.iter().zip(&self.inputs);
        let bad = tallies.clone().filter(|(tally, _)| tally.bad > 0).map(|(tally, input)| BadInput {
            shown: input.shown.clone(),
            bad_rows: tally.bad,
            named: tally.named.clone(),
        });
        let nothing = Seal { bytes: 0, sha256: String::new() };
        let facts = tallies.zip(&numbering.own).map(|((tally, input), own)| {
            let seal = tally.seal.as_ref().unwrap_or(&nothing);
            InputFacts {
                name: input.file_name.clone(),
                format: tally.format.map_or("", crate::sources::Format::as_str).to_owned(),
                own: *own,
                rows: tally.rows,
                bad_rows: tally.bad,
                bytes: seal.bytes,
                sha256: seal.sha256.clone(),
            }
        });
        let mut shapes: Vec<ShapeRows> =
            numbering.shapes.iter().map(|&(shape, rows)| ShapeRows { shape: shape.to_owned(), rows }).collect();
        shapes.sort_by_key(|shape| std::cmp::Reverse(shape.rows));
        let (inputs, bad): (Vec<_>, Vec<_>) = (facts.collect(), bad.collect());
        let totals = Totals {
            rows_read: inputs.iter().map(|input| input.rows).sum(),
            rows: numbering.kept,
            bad_rows: inputs.iter().map(|input| input.bad_rows).sum(),
            duplicate_rows: self.settings.dedup.then_some(numbering.duplicates),
            bytes_read: inputs.iter().map(|input| input.bytes).sum(),
            bytes: parts.iter().flat_map(BTreeMap::values).map(|part| part.bytes).sum(),
        };
        Found { plan: numbering.found(), totals, shapes, inputs, bad, parts }
    }

    fn manifest(&self, found: &Found, parts: &BTreeMap<u64, Part>, steps: &[Value]) -> Result<String, ShardError> {
        let schema = found.plan.layout.schema();
        let column = |field: &arrow_schema::FieldRef| Column {
            name: field.name().clone(),
            r#type: field.data_type().to_string(),
        };
        let manifest = Manifest {
            version: VERSION,
            settings: self.manifest_settings(),
            totals: found.totals.clone(),
            shapes: found.shapes.clone(),
            inputs: found.inputs.clone(),
            parts: found_parts(parts),
            columns: schema.fields().iter().map(column).collect(),
            provenance: steps.to_vec(),
        };
        let text = serde_json::to_string_pretty(&manifest).map_err(|error| ShardError::Internal(error.to_string()))?;
        Ok(text + "\n")
    }

    fn manifest_settings(&self) -> ManifestSettings {
        let Settings { division, compression, dedup, shape, .. } = *self.settings;
        let (rows_per_shard, shards) = match division {
            Division::RowsPerShard(rows) => (Some(rows), None),
            Division::Shards(shards) => (None, Some(shards)),
        };
        ManifestSettings {
            rows_per_shard,
            shards,
            compression: compression.as_str().to_owned(),
            dedup: dedup.then(|| "exact".to_owned()),
            shape: shape.as_str().to_owned(),
        }
    }

    /// Everything that decides the shards, without reading the inputs.
    fn work(&self) -> Result<Value, ShardError> {
        let mut inputs = Vec::new();
        for input in &self.inputs {
            let failed = |error| ShardError::read(&input.shown, &error);
            inputs.push(if input.piped {
                json!([input.file_name, seal_of(&input.path).map_err(failed)?.sha256])
            } else {
                let about = fs::metadata(&input.path).map_err(failed)?;
                let changed = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                let path = fs::canonicalize(&input.path).map_err(failed)?;
                json!([path.to_string_lossy(), about.len(), changed.map(|time| time.as_nanos().to_string())])
            });
        }
        let settings =
            serde_json::to_value(self.manifest_settings()).map_err(|e| ShardError::Internal(e.to_string()))?;
        Ok(json!({ "version": VERSION, "settings": settings, "inputs": inputs, "step": self.settings.step }))
    }

    /// The parts of an earlier run whose files are still whole.
    fn verified(&self, parts: &[Part]) -> BTreeMap<u64, Part> {
        let place = |part: &Part| part.name.strip_prefix("part-")?.strip_suffix(".parquet")?.parse().ok();
        let whole = parts.iter().filter(|part| self.folder.holds(part));
        whole.filter_map(|part| Some((place(part)?, part.clone()))).collect()
    }

    fn threads(&self) -> usize {
        match self.settings.threads {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            threads => threads,
        }
    }

    fn begun_parts(&self) -> Vec<Part> {
        self.folder.left().map(|left| left.parts).unwrap_or_default()
    }

    /// The folder holds a manifest: of this work, or of another.
    fn finished(&self, step: &Value) -> Result<Summary, ShardError> {
        let path = self.folder.manifest();
        let text = fs::read_to_string(&path).map_err(|error| ShardError::read(&path.display().to_string(), &error))?;
        let other = || self.folder.refuse("holds the shards of other work", "name another folder, or empty this one");
        let stands: Manifest = serde_json::from_str(&text).map_err(|_| other())?;
        let same = stands.settings == self.manifest_settings()
            && stands.provenance.last() == Some(step)
            && self.holds_inputs(&stands.inputs)?;
        if !same {
            return Err(other());
        }
        let broken = stands.parts.iter().find(|part| {
            let seal = seal_of(&self.folder.part(&part.name));
            !seal.is_ok_and(|seal| seal.bytes == part.bytes && seal.sha256 == part.sha256)
        });
        if let Some(part) = broken {
            let problem = format!("holds a finished run, but `{}` is gone or was changed", part.name);
            return Err(self.folder.refuse(problem, &format!("empty the folder, {MANIFEST} too, to write it again")));
        }
        let mut bad = Vec::new();
        if self.settings.bad_rows.is_some() || (self.settings.strict && stands.totals.bad_rows > 0) {
            bad = self.bad_rows_again()?;
        }
        let layout = Layout::default();
        let mut summary = self.summary_of(&layout, bad, text, 0);
        summary.finished_before = true;
        Ok(summary)
    }

    fn holds_inputs(&self, stand: &[InputFacts]) -> Result<bool, ShardError> {
        if stand.len() != self.inputs.len() {
            return Ok(false);
        }
        for (input, facts) in self.inputs.iter().zip(stand) {
            let failed = |error| ShardError::read(&input.shown, &error);
            let bytes = fs::metadata(&input.path).map_err(failed)?.len();
            if facts.name != input.file_name || facts.bytes != bytes {
                return Ok(false);
            }
            if seal_of(&input.path).map_err(failed)?.sha256 != facts.sha256 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Collects the bad rows of finished work: they are asked for, and the folder does not hold them.
    fn bad_rows_again(&self) -> Result<Vec<BadInput>, ShardError> {
        let mut plan = guess(self.settings, &self.inputs)?.plan;
        loop {
            let bad_rows = BadRows::open(self.settings.bad_rows.as_deref())?;
            let finished = BTreeMap::new();
            let numbering = Numbering::new(&plan, self.settings.division, &self.inputs, &finished, bad_rows)
                .strict(self.settings.strict)
                .writing(false);
            let work = Work {
                inputs: &self.inputs,
                plan: &plan,
                shape: self.settings.shape,
                threads: self.threads(),
                interrupted: self.interrupted,
            };
            let (mut numbering, _) = pass(&work, numbering, None)?;
            if numbering.own == plan.own {
                numbering.settle_bad_rows()?;
                return Ok(self.found(&numbering, None).bad);
            }
            plan = numbering.found();
        }
    }

    fn summary(&self, found: &Found, manifest: String, resumed: usize) -> Summary {
        self.summary_of(&found.plan.layout, found.bad.clone(), manifest, resumed)
    }

    fn summary_of(&self, layout: &Layout, bad: Vec<BadInput>, manifest: String, resumed_parts: usize) -> Summary {
        Summary {
            finished_before: false,
            resumed_parts,
            passes: self.passes.get(),
            manifest,
            bad,
            renamed: layout.renamed(),
            left_out: layout.left_out(),
            mixed: layout.mixed(),
        }
    }
}

/// What parts were written for, as a digest.
fn digest_of(plan: &Plan) -> String {
    let told = format!("{:?} {:?} {:?}", plan.layout.schema(), plan.own, plan.rows);
    hex(&Sha256::digest(told.as_bytes()))
}

fn found_parts(parts: &BTreeMap<u64, Part>) -> Vec<Part> {
    parts.values().cloned().collect()
}

fn unchanged(inputs: &[Input], before: &[InputFacts], now: &[InputFacts]) -> Result<(), ShardError> {
    let changed = (0..inputs.len()).find(|place| before[*place].sha256 != now[*place].sha256);
    changed.map_or(Ok(()), |place| Err(ShardError::Changed { shown: inputs[place].shown.clone() }))
}
