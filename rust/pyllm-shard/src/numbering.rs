//! What has to be done in the order of the rows: counting, duplicates, and which part each row goes to.

use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashSet;
use pyllm_examples::{BadRow, Id, Layout, Place as FilePlace, Rows};
use sha2::{Digest, Sha256};

use crate::bad::BadRows;
use crate::error::ShardError;
use crate::manifest::{Part, Place};
use crate::parts::Contents;
use crate::settings::Division;
use crate::sources::{Format, Input, damaged};
use crate::stored::{Seal, hex};

/// Bad rows of one file that messages name.
const NAMED_BAD_ROWS: usize = 5;

/// What is known, or guessed, before rows are written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) layout: Layout,
    /// For each input, whether it is a table of ours.
    pub(crate) own: Vec<bool>,
    /// Rows that will be kept; only looked at when the number of shards is given.
    pub(crate) rows: Option<u64>,
}

/// What was found in one input.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) format: Option<Format>,
    pub(crate) seal: Option<Seal>,
    pub(crate) rows: u64,
    lines: u64,
    pub(crate) bad: u64,
    /// The first bad rows and what is wrong with them.
    pub(crate) named: Vec<String>,
    all_wrong_kind: bool,
    all_not_json: bool,
}

/// Consecutive kept rows of a block that go to one part.
pub(crate) struct Slice {
    pub(crate) part: u64,
    pub(crate) rows: usize,
    /// False where an earlier run wrote the part.
    pub(crate) wanted: bool,
    /// Given with the last rows of a part.
    pub(crate) ends: Option<Contents>,
}

/// What becomes of a block's rows.
pub(crate) struct Numbered {
    pub(crate) first_row: u64,
    /// One flag a good row, or all of them.
    pub(crate) keep: Option<Vec<bool>>,
    /// Empty where nothing is written any more.
    pub(crate) slices: Vec<Slice>,
}

struct OpenPart {
    part: u64,
    rows: u64,
    first: Place,
    last: Place,
    digest: Sha256,
}

/// Ids are digests already: their first bytes are hash enough.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut first = [0; 8];
        let count = bytes.len().min(8);
        first[..count].copy_from_slice(&bytes[..count]);
        self.0 = u64::from_le_bytes(first);
    }
}

#[derive(PartialEq, Eq)]
struct Seen(Id);

impl std::hash::Hash for Seen {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

/// Counts rows and divides them.
pub(crate) struct Numbering<'a> {
    plan: &'a Plan,
    division: Division,
    inputs: &'a [Input],
    finished: &'a BTreeMap<u64, Part>,
    seen: Option<HashSet<Seen, BuildHasherDefault<IdHasher>>>,
    strict: bool,
    bad_rows: BadRows,
    /// Whether rows are written: not while only looking, and not after something turned out otherwise than planned.
    pub(crate) writing: bool,
    pub(crate) tallies: Vec<Tally>,
    pub(crate) shapes: Vec<(&'static str, u64)>,
    pub(crate) layout: Layout,
    pub(crate) own: Vec<bool>,
    pub(crate) kept: u64,
    pub(crate) duplicates: u64,
    open: Option<OpenPart>,
}

impl<'a> Numbering<'a> {
    pub(crate) fn new(
        plan: &'a Plan,
        division: Division,
        inputs: &'a [Input],
        finished: &'a BTreeMap<u64, Part>,
        bad_rows: BadRows,
    ) -> Self {
        Self {
            plan,
            division,
            inputs,
            finished,
            seen: None,
            strict: false,
            bad_rows,
            writing: true,
            tallies: vec![Tally { all_wrong_kind: true, all_not_json: true, ..Tally::default() }; inputs.len()],
            shapes: Vec::new(),
            layout: Layout::default(),
            own: plan.own.clone(),
            kept: 0,
            duplicates: 0,
            open: None,
        }
    }

    pub(crate) fn dropping_duplicates(mut self, drops: bool) -> Self {
        self.seen = drops.then(HashSet::default);
        self
    }

    pub(crate) fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    pub(crate) fn writing(mut self, writing: bool) -> Self {
        self.writing = writing;
        self
    }

    /// Takes the next block of an input into account.
    pub(crate) fn number(
        &mut self,
        input: usize,
        rows: &Rows<'_>,
        place: Option<FilePlace>,
    ) -> Result<Numbered, ShardError> {
        let first_row = self.tallies[input].rows;
        if let Some(damage) = rows.damage() {
            let damage = damage.clone().at(first_row, place.unwrap_or_default());
            return Err(damaged(&self.inputs[input].shown, &damage));
        }
        self.check_plan(input, rows);
        self.count(input, rows, place.map_or(self.tallies[input].lines, |place| place.line))?;
        let keep = self.first_seen(rows.ids());
        let slices = self.divide(input, rows, first_row, keep.as_deref());
        Ok(Numbered { first_row, keep, slices })
    }

    fn check_plan(&mut self, input: usize, rows: &Rows<'_>) {
        if self.plan.own[input] && !rows.own_holds() {
            self.own[input] = false;
            self.writing = false;
        }
        if !self.plan.layout.covers(rows.layout()) {
            self.writing = false;
        }
        self.layout.join(rows.layout());
    }

    fn count(&mut self, input: usize, rows: &Rows<'_>, lines_before: u64) -> Result<(), ShardError> {
        let tally = &mut self.tallies[input];
        for bad in rows.bad() {
            let bad =
                BadRow { row: tally.rows + bad.row, line: bad.line.map(|line| lines_before + line + 1), ..bad.clone() };
            if tally.named.len() < NAMED_BAD_ROWS {
                tally.named.push(place_of(&bad));
            }
            tally.bad += 1;
            tally.all_wrong_kind &= bad.wrong_kind;
            tally.all_not_json &= bad.field.is_none() && bad.reason.starts_with("is not valid JSON");
            self.bad_rows.add(&self.inputs[input].file_name, &bad)?;
        }
        if self.strict && tally.bad > 0 {
            self.writing = false;
        }
        tally.rows += rows.records();
        tally.lines = lines_before + rows.lines();
        for &(shape, count) in rows.shapes() {
            match self.shapes.iter_mut().find(|known| known.0 == shape) {
                Some(known) => known.1 += count,
                None => self.shapes.push((shape, count)),
            }
        }
        Ok(())
    }

    /// Which rows' content stands here for the first time; `None` for all.
    fn first_seen(&mut self, ids: &[Id]) -> Option<Vec<bool>> {
        let seen = self.seen.as_mut()?;
        let keep: Vec<bool> = ids.iter().map(|id| seen.insert(Seen(*id))).collect();
        let dropped = keep.iter().filter(|kept| !**kept).count();
        self.duplicates += dropped as u64;
        (dropped > 0).then_some(keep)
    }

    fn divide(&mut self, input: usize, rows: &Rows<'_>, first_row: u64, keep: Option<&[bool]>) -> Vec<Slice> {
        let kept: Vec<usize> = match keep {
            None => (0..rows.ids().len()).collect(),
            Some(flags) => (0..flags.len()).filter(|row| flags[*row]).collect(),
        };
        let mut slices = Vec::new();
        let mut rest = kept.as_slice();
        while self.writing && !rest.is_empty() {
            let Some((part, end)) = self.part_at(self.kept) else {
                self.writing = false;
                break;
            };
            let room = usize::try_from(end - self.kept).unwrap_or(usize::MAX);
            let (taken, later) = rest.split_at(rest.len().min(room));
            rest = later;
            self.kept += taken.len() as u64;
            self.add_to_part(part, input, rows, first_row, taken);
            let ends = if self.kept == end { self.close_part() } else { None };
            slices.push(Slice { part, rows: taken.len(), wanted: !self.finished.contains_key(&part), ends });
        }
        self.kept += rest.len() as u64;
        if self.writing { slices } else { Vec::new() }
    }

    /// The part of the n-th kept row, and the number of the row after its last one.
    fn part_at(&self, row: u64) -> Option<(u64, u64)> {
        match self.division {
            Division::RowsPerShard(rows) => Some((row / rows, row / rows * rows + rows)),
            Division::Shards(shards) => part_of(row, shards, self.plan.rows?),
        }
    }

    fn add_to_part(&mut self, part: u64, input: usize, rows: &Rows<'_>, first_row: u64, taken: &[usize]) {
        let file = &self.inputs[input].file_name;
        let origin = |row: usize| Place { input, file: file.clone(), row: first_row + rows.places()[row] };
        let (Some(&first), Some(&last)) = (taken.first(), taken.last()) else { return };
        let open = self.open.get_or_insert_with(|| OpenPart {
            part,
            rows: 0,
            first: origin(first),
            last: origin(last),
            digest: Sha256::new(),
        });
        open.rows += taken.len() as u64;
        open.last = origin(last);
        if last - first + 1 == taken.len() {
            open.digest.update(rows.ids()[first..=last].as_flattened());
        } else {
            for &row in taken {
                open.digest.update(rows.ids()[row]);
            }
        }
    }

    /// What the part that is open holds; it is open no more.
    fn close_part(&mut self) -> Option<Contents> {
        self.open.take().map(|open| Contents {
            rows: open.rows,
            first: open.first,
            last: open.last,
            content_sha256: hex(&open.digest.finalize()),
        })
    }

    /// The last part, which ended with the rows.
    pub(crate) fn last_part(&mut self) -> Option<(u64, Contents)> {
        let part = self.open.as_ref()?.part;
        self.close_part().map(|contents| (part, contents))
    }

    /// Takes the end of an input into account: one without rows, or without good ones, is refused.
    pub(crate) fn end(&mut self, input: usize, format: Format, seal: Seal) -> Result<(), ShardError> {
        let tally = &mut self.tallies[input];
        (tally.format, tally.seal) = (Some(format), Some(seal));
        let shown = &self.inputs[input].shown;
        if tally.rows == 0 {
            return Err(ShardError::NoRows { shown: shown.clone() });
        }
        // A table that only looked like one of ours is read again first. Strict reading has its own message.
        if tally.rows > tally.bad || self.own[input] != self.plan.own[input] || self.strict {
            return Ok(());
        }
        self.refuse_bad(input)
    }

    fn refuse_bad(&mut self, input: usize) -> Result<(), ShardError> {
        // What was bad is kept for the user to look at, though nothing else is.
        std::mem::replace(&mut self.bad_rows, BadRows::open(None)?).finish()?;
        let (tally, shown) = (&self.tallies[input], &self.inputs[input].shown);
        let first = tally.named.first().map_or("", String::as_str);
        if tally.all_wrong_kind {
            return Err(ShardError::NoGoodRows {
                message: format!("{shown} is not instruction data: {first}"),
                hint: None,
            });
        }
        let hint = "each line has to be one JSON object, or the whole file one JSON array";
        Err(ShardError::NoGoodRows {
            message: format!("{shown}: none of its {} rows can be read; {first}", thousands(tally.bad)),
            hint: tally.all_not_json.then(|| hint.to_owned()),
        })
    }

    /// What was found: equal to the plan if that was right.
    pub(crate) fn found(&self) -> Plan {
        let rows = matches!(self.division, Division::Shards(_)).then_some(self.kept);
        Plan { layout: self.layout.clone(), own: self.own.clone(), rows }
    }

    /// Gives the file of bad rows its name, and refuses them if they are to be refused.
    pub(crate) fn settle_bad_rows(&mut self) -> Result<(), ShardError> {
        std::mem::replace(&mut self.bad_rows, BadRows::open(None)?).finish()?;
        let refused = self.tallies.iter().position(|tally| self.strict && tally.bad > 0);
        refused.map_or(Ok(()), |input| {
            let (tally, shown) = (&self.tallies[input], &self.inputs[input].shown);
            let more = tally.bad - 1;
            Err(ShardError::BadRow {
                shown: shown.clone(),
                place: tally.named.first().cloned().unwrap_or_default(),
                more: if more > 0 { format!("; and {} more", thousands(more)) } else { String::new() },
            })
        })
    }
}

/// The part of a row when `rows` are divided into shards whose sizes differ by one at most, the larger ones first.
fn part_of(row: u64, shards: u64, rows: u64) -> Option<(u64, u64)> {
    if row >= rows {
        return None;
    }
    let shards = shards.min(rows).max(1);
    let (size, larger) = (rows / shards, rows % shards);
    let in_larger = larger * (size + 1);
    Some(if row < in_larger {
        let part = row / (size + 1);
        (part, (part + 1) * (size + 1))
    } else {
        let part = larger + (row - in_larger) / size;
        (part, in_larger + (part - larger + 1) * size)
    })
}

fn place_of(bad: &BadRow) -> String {
    let line = bad.line.map_or_else(String::new, |line| format!(" (line {line})"));
    let field = bad.field.as_ref().map_or_else(String::new, |field| format!(", field `{field}`"));
    format!("row {}{line}{field}: {}", bad.row, bad.reason)
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_contiguous_and_differ_by_one_row() {
        for rows in 1..40_u64 {
            for shards in 1..45 {
                let mut sizes = vec![0_u64; usize::try_from(shards.min(rows)).unwrap()];
                let mut before = 0;
                for row in 0..rows {
                    let (part, end) = part_of(row, shards, rows).unwrap();
                    assert!(part >= before && end > row);
                    before = part;
                    sizes[usize::try_from(part).unwrap()] += 1;
                }
                let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
                assert!(most - least <= 1 && *least > 0, "{rows} rows, {shards} shards: {sizes:?}");
                assert_eq!(part_of(rows, shards, rows), None);
            }
        }
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
