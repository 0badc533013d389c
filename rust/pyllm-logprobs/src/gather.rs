//! Gathers the runs of pairs into candidates, in order of first appearance.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

use arrow_schema::DataType;
use hashbrown::HashTable;
use pyllm_golden::{GoldenScores, RowTally};

use crate::anchors::AnchorIndex;
use crate::error::LogprobsError;
use crate::ids::{Id, Ids};
use crate::pairs::{Pair, Run, Runs};
use crate::rows::{Baselines, ScoredRows};

/// Candidates that are handed on at once.
const CHUNK_ROWS: usize = 8192;

/// What to do about a candidate that lacks anchors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// Refuse the input, and name the candidate and the anchor.
    #[default]
    Refuse,
    /// Score over the pairs that are there.
    Skip,
}

/// What a gatherer does with the pairs of one candidate that came together.
enum Closed<'a> {
    Whole(RowTally),
    Part(&'a [Pair]),
}

/// Joins runs that a border between batches has cut.
#[derive(Debug, Default)]
struct Joint {
    id: Option<Id>,
    pairs: Vec<Pair>,
}

impl Joint {
    /// Takes the runs of a batch; each one that is closed goes to `take`, in order.
    ///
    /// # Errors
    /// Those of `take`.
    fn feed<E>(&mut self, runs: &Runs, mut take: impl FnMut(Id, Closed<'_>) -> Result<(), E>) -> Result<(), E> {
        let (mut tallies, mut pairs) = (runs.tallies.iter(), runs.pairs.as_slice());
        for (place, run) in runs.kinds.iter().enumerate() {
            let id = runs.ids.get(place);
            if self.id.as_ref() != Some(&id) {
                self.close(&mut take)?;
            }
            match run {
                Run::Whole => {
                    // Pairs of the same candidate may be waiting: they stand twice, and whoever takes them finds out.
                    self.close(&mut take)?;
                    if let Some(tally) = tallies.next() {
                        take(id, Closed::Whole(*tally))?;
                    }
                }
                Run::Part { count } => {
                    let (part, rest) = pairs.split_at(*count);
                    pairs = rest;
                    self.pairs.extend_from_slice(part);
                    self.id = Some(id);
                }
            }
        }
        Ok(())
    }

    /// Hands on what is waiting.
    fn close<E>(&mut self, take: &mut impl FnMut(Id, Closed<'_>) -> Result<(), E>) -> Result<(), E> {
        if let Some(id) = self.id.take() {
            take(id, Closed::Part(&self.pairs))?;
        }
        self.pairs.clear();
        Ok(())
    }
}

/// The tally of pairs that came together, in the order of rows; None if an anchor stands twice.
fn tally_of(pairs: &[Pair], baselines: &Baselines) -> Option<RowTally> {
    let mut row = vec![0.0; baselines.anchors()];
    let (mut seen, mut tried) = (vec![false; row.len()], vec![false; row.len()]);
    for pair in pairs {
        let anchor = pair.anchor as usize;
        if std::mem::replace(&mut seen[anchor], true) {
            return None;
        }
        row[anchor] = pair.nats.unwrap_or_default();
        tried[anchor] = pair.nats.is_some();
    }
    Some(baselines.wide.tally_row_without(&row, |anchor| !tried[anchor]))
}

/// Why runs cannot be finished as they come.
#[derive(Debug)]
pub(crate) enum Halt {
    /// Candidates are not in rising order, or one is not whole: they have to be remembered.
    OutOfOrder,
    Failed(LogprobsError),
}

/// Candidates in rising order, each in one run: nothing is remembered but the last.
#[derive(Debug, Default)]
pub(crate) struct Rising {
    joint: Joint,
    last: Option<Id>,
    waiting: Option<(Vec<Id>, GoldenScores)>,
}

impl Rising {
    /// Takes a batch; `push` gets the candidates that are finished.
    pub(crate) fn feed(
        &mut self,
        runs: &Runs,
        baselines: &Baselines,
        missing: Missing,
        push: &mut dyn FnMut(ScoredRows) -> Result<(), LogprobsError>,
    ) -> Result<(), Halt> {
        let (last, waiting) = (&mut self.last, self.waiting.get_or_insert_default());
        self.joint.feed(runs, |id, closed| finish(id, &closed, baselines, missing, last, waiting))?;
        if waiting.0.len() >= CHUNK_ROWS { self.flush(&runs.ids.kind(), push) } else { Ok(()) }
    }

    /// Ends the input.
    pub(crate) fn end(
        &mut self,
        kind: &DataType,
        baselines: &Baselines,
        missing: Missing,
        push: &mut dyn FnMut(ScoredRows) -> Result<(), LogprobsError>,
    ) -> Result<(), Halt> {
        let (last, waiting) = (&mut self.last, self.waiting.get_or_insert_default());
        self.joint.close(&mut |id, closed| finish(id, &closed, baselines, missing, last, waiting))?;
        self.flush(kind, push)
    }

    fn flush(
        &mut self,
        kind: &DataType,
        push: &mut dyn FnMut(ScoredRows) -> Result<(), LogprobsError>,
    ) -> Result<(), Halt> {
        let Some((ids, scores)) = self.waiting.take() else { return Ok(()) };
        push(ScoredRows { ids: Some(Ids::from_ids(kind, ids.iter())), scores }).map_err(Halt::Failed)
    }
}

fn finish(
    id: Id,
    closed: &Closed<'_>,
    baselines: &Baselines,
    missing: Missing,
    last: &mut Option<Id>,
    waiting: &mut (Vec<Id>, GoldenScores),
) -> Result<(), Halt> {
    if last.as_ref().is_some_and(|last| *last >= id) {
        return Err(Halt::OutOfOrder);
    }
    let tally = match closed {
        Closed::Whole(tally) => Some(*tally),
        Closed::Part(pairs) if pairs.len() == baselines.anchors() || missing == Missing::Skip => {
            tally_of(pairs, baselines)
        }
        Closed::Part(_) => None,
    };
    waiting.1.push(&tally.ok_or(Halt::OutOfOrder)?);
    waiting.0.push(id.clone());
    *last = Some(id);
    Ok(())
}

/// Every candidate, its tally so far, and which of its anchors were seen.
///
/// Costs about `60 + anchors / 8` bytes a candidate, and its id where that is text.
pub(crate) struct Directory {
    joint: Joint,
    places: HashTable<u32>,
    hashes: RandomState,
    ids: Vec<Id>,
    tallies: Vec<RowTally>,
    seen: Vec<u64>,
    words: usize,
    /// The first candidate of each file.
    files: Vec<(usize, PathBuf)>,
}

impl Directory {
    pub(crate) fn new(anchors: usize) -> Self {
        Self {
            joint: Joint::default(),
            places: HashTable::new(),
            hashes: RandomState::new(),
            ids: Vec::new(),
            tallies: Vec::new(),
            seen: Vec::new(),
            words: anchors.div_ceil(64),
            files: Vec::new(),
        }
    }

    /// Takes a batch.
    ///
    /// # Errors
    /// A pair stands twice.
    pub(crate) fn feed(
        &mut self,
        path: &Path,
        runs: &Runs,
        baselines: &Baselines,
        index: &AnchorIndex,
    ) -> Result<(), LogprobsError> {
        let mut joint = std::mem::take(&mut self.joint);
        let fed = joint.feed(runs, |id, closed| self.add(path, id, &closed, baselines, index));
        self.joint = joint;
        fed
    }

    fn add(
        &mut self,
        path: &Path,
        id: Id,
        closed: &Closed<'_>,
        baselines: &Baselines,
        index: &AnchorIndex,
    ) -> Result<(), LogprobsError> {
        let (place, is_new) = self.place_of(path, id);
        let twice = |directory: &Self, anchor: usize| LogprobsError::PairTwice {
            path: path.to_owned(),
            candidate: directory.ids[place].to_string(),
            anchor: index.name(anchor),
        };
        match closed {
            Closed::Whole(tally) if is_new => {
                self.tallies[place] = *tally;
                for anchor in 0..baselines.anchors() {
                    self.mark(place, anchor);
                }
            }
            Closed::Whole(_) => {
                let anchor = (0..baselines.anchors()).find(|&anchor| self.has(place, anchor)).unwrap_or_default();
                return Err(twice(self, anchor));
            }
            Closed::Part(pairs) => {
                // All at once where they came together, for the order in which rows are added up.
                let together = if is_new { tally_of(pairs, baselines) } else { None };
                for pair in *pairs {
                    if self.mark(place, pair.anchor as usize) {
                        return Err(twice(self, pair.anchor as usize));
                    }
                    if let (None, Some(nats)) = (together, pair.nats) {
                        baselines.wide.add_pair(&mut self.tallies[place], pair.anchor as usize, nats);
                    }
                }
                if let Some(tally) = together {
                    self.tallies[place] = tally;
                }
            }
        }
        Ok(())
    }

    fn place_of(&mut self, path: &Path, id: Id) -> (usize, bool) {
        let hash = self.hashes.hash_one(&id);
        if let Some(&place) = self.places.find(hash, |&place| self.ids[place as usize] == id) {
            return (place as usize, false);
        }
        let place = self.ids.len();
        self.ids.push(id);
        self.tallies.push(RowTally::default());
        self.seen.resize(self.seen.len() + self.words, 0);
        if self.files.last().is_none_or(|(_, last)| last != path) {
            self.files.push((place, path.to_owned()));
        }
        let (ids, hashes) = (&self.ids, &self.hashes);
        self.places.insert_unique(hash, place as u32, |&place| hashes.hash_one(&ids[place as usize]));
        (place, true)
    }

    fn has(&self, place: usize, anchor: usize) -> bool {
        self.seen[place * self.words + anchor / 64] >> (anchor % 64) & 1 == 1
    }

    /// Marks a pair as seen, and says whether it was before.
    fn mark(&mut self, place: usize, anchor: usize) -> bool {
        let was = self.has(place, anchor);
        self.seen[place * self.words + anchor / 64] |= 1 << (anchor % 64);
        was
    }

    /// Ends the input, whose last file is `path`, and says how many candidates there are.
    ///
    /// # Errors
    /// A pair stands twice.
    pub(crate) fn candidates(
        &mut self,
        path: &Path,
        baselines: &Baselines,
        index: &AnchorIndex,
    ) -> Result<usize, LogprobsError> {
        let mut joint = std::mem::take(&mut self.joint);
        joint.close(&mut |id, closed| self.add(path, id, &closed, baselines, index))?;
        Ok(self.ids.len())
    }

    /// Hands on all candidates.
    ///
    /// # Errors
    /// A pair is missing, unless those are skipped.
    pub(crate) fn finish(
        self,
        kind: &DataType,
        missing: Missing,
        index: &AnchorIndex,
        push: &mut dyn FnMut(ScoredRows) -> Result<(), LogprobsError>,
    ) -> Result<(), LogprobsError> {
        if missing == Missing::Refuse {
            self.refuse_missing(index)?;
        }
        for first in (0..self.ids.len()).step_by(CHUNK_ROWS) {
            let span = first..self.ids.len().min(first + CHUNK_ROWS);
            let mut scores = GoldenScores::default();
            self.tallies[span.clone()].iter().for_each(|tally| scores.push(tally));
            push(ScoredRows { ids: Some(Ids::from_ids(kind, self.ids[span].iter())), scores })?;
        }
        Ok(())
    }

    fn refuse_missing(&self, index: &AnchorIndex) -> Result<(), LogprobsError> {
        let anchors = index.anchors();
        let seen_of = |place: usize| {
            let words = &self.seen[place * self.words..(place + 1) * self.words];
            words.iter().map(|word| word.count_ones() as usize).sum::<usize>()
        };
        let mut lacking = (0..self.ids.len()).filter(|&place| seen_of(place) < anchors);
        let Some(first) = lacking.next() else { return Ok(()) };
        let (mut pairs, mut candidates) = (anchors - seen_of(first), 1);
        for place in lacking {
            pairs += anchors - seen_of(place);
            candidates += 1;
        }
        let anchor = (0..anchors).find(|&anchor| !self.has(first, anchor)).unwrap_or_default();
        let file = self.files.iter().rfind(|(begin, _)| *begin <= first);
        Err(LogprobsError::MissingPairs {
            path: file.map(|(_, path)| path.clone()).unwrap_or_default(),
            candidate: self.ids[first].to_string(),
            anchor: index.name(anchor),
            pairs: pairs as u64,
            candidates,
        })
    }
}
