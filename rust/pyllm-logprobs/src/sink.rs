//! Where scored rows go: counted, chosen, written.

use std::path::{Path, PathBuf};

use arrow_schema::DataType;
use pyllm_golden::{BestRows, GoldenScores, Place, golden_score};

use crate::error::LogprobsError;
use crate::ids::{Id, Ids};
use crate::rows::ScoredRows;
use crate::table::TableWriter;

/// Rows of the best that are written at once.
const CHUNK_ROWS: usize = 8192;

/// Which rows are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    /// All of them.
    All,
    /// Those with a golden score strictly above this.
    Above(f64),
    /// The best so many.
    Best(u64),
    /// The best share of all rows, as a fraction; it rounds up.
    BestShare {
        /// Above the line.
        numerator: u64,
        /// Below the line; above 0.
        denominator: u64,
    },
}

impl Keep {
    /// The most rows that may be kept of so many.
    fn most(self, rows: u64) -> u64 {
        match self {
            Self::All | Self::Above(_) => rows,
            Self::Best(most) => most.min(rows),
            Self::BestShare { numerator, denominator } => {
                let whole = (u128::from(numerator) * u128::from(rows)).div_ceil(u128::from(denominator.max(1)));
                u64::try_from(whole).unwrap_or(rows).min(rows)
            }
        }
    }
}

/// Numbers of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// Candidates.
    pub rows: u64,
    /// Candidates with a score: at least one of their pairs was tried.
    pub rows_scored: u64,
    /// Candidates written.
    pub rows_written: u64,
    /// Anchors.
    pub anchors: usize,
    /// Pairs tried.
    pub pairs_scored: u64,
    /// Pairs that were not tried: null, or not there at all.
    pub pairs_left_out: u64,
    /// Pairs tried whose gain is not a number; they are lost.
    pub nan_pairs: u64,
    /// Zero-shot sums that are not numbers; nobody wins those anchors.
    pub nan_anchors: u64,
    /// Mean of the golden scores; NaN if there is none.
    pub mean_golden_score: f64,
    /// For each number of wins from 0 to `anchors`, the scored candidates that have it.
    pub histogram: Vec<u64>,
    /// How many times the input was read: twice where pairs turned out to be in no order.
    pub passes: u32,
}

/// Takes scored rows in order.
pub(crate) struct Sink<'a> {
    keep: Keep,
    target: &'a Path,
    provenance: &'a str,
    /// Type of the ids and the file that brought them first.
    kind: Option<(DataType, PathBuf)>,
    writer: Option<TableWriter>,
    best: BestRows<Id>,
    score_sum: f64,
    summary: Summary,
}

impl<'a> Sink<'a> {
    /// # Arguments
    /// * `rows` - how many rows there will be, where that is known.
    pub(crate) fn new(keep: Keep, rows: Option<u64>, anchors: usize, target: &'a Path, provenance: &'a str) -> Self {
        let most = match (keep, rows) {
            (Keep::Best(most), _) => most,
            (Keep::BestShare { .. }, Some(rows)) => keep.most(rows),
            _ => u64::MAX,
        };
        Self {
            keep,
            target,
            provenance,
            kind: None,
            writer: None,
            best: BestRows::new(usize::try_from(most).unwrap_or(usize::MAX)),
            score_sum: 0.0,
            summary: Summary { anchors, histogram: vec![0; anchors + 1], passes: 1, ..Summary::default() },
        }
    }

    /// Takes the rows that follow; `path` is the file they come from.
    pub(crate) fn push(&mut self, path: &Path, rows: ScoredRows) -> Result<(), LogprobsError> {
        let ScoredRows { ids, scores } = rows;
        let first = self.summary.rows;
        let ids = ids.unwrap_or_else(|| Ids::numbered(first, scores.wins.len()));
        self.check_kind(path, &ids.kind())?;
        self.count(&scores);
        match self.keep {
            Keep::All => self.write(ids, &scores),
            Keep::Above(limit) => {
                let chosen = |place: &usize| golden_score(scores.wins[*place], scores.anchors_scored[*place]) > limit;
                let places: Vec<usize> = (0..scores.wins.len()).filter(chosen).collect();
                let chosen_ids: Vec<Id> = places.iter().map(|&place| ids.get(place)).collect();
                let chosen = GoldenScores {
                    wins: places.iter().map(|&place| scores.wins[place]).collect(),
                    anchors_scored: places.iter().map(|&place| scores.anchors_scored[place]).collect(),
                    mean_gain_nats: places.iter().map(|&place| scores.mean_gain_nats[place]).collect(),
                    nan_pairs: 0,
                };
                self.write(Ids::from_ids(&ids.kind(), chosen_ids.iter()), &chosen)
            }
            Keep::Best(_) | Keep::BestShare { .. } => {
                for (place, (&wins, &anchors_scored)) in scores.wins.iter().zip(&scores.anchors_scored).enumerate() {
                    if self.best.may_enter(wins, anchors_scored) {
                        let (mean_gain_nats, row) = (scores.mean_gain_nats[place], first + place as u64);
                        self.best.offer(Place { wins, anchors_scored, mean_gain_nats, id: ids.get(place), row });
                    }
                }
                Ok(())
            }
        }
    }

    fn check_kind(&mut self, path: &Path, kind: &DataType) -> Result<(), LogprobsError> {
        match &self.kind {
            Some((wanted, _)) if wanted == kind => Ok(()),
            Some((wanted, first)) => Err(LogprobsError::MixedIds {
                path: path.to_owned(),
                found: crate::ids::kind_name(kind).to_owned(),
                first: first.clone(),
                wanted: crate::ids::kind_name(wanted).to_owned(),
            }),
            None => {
                self.kind = Some((kind.clone(), path.to_owned()));
                Ok(())
            }
        }
    }

    fn count(&mut self, scores: &GoldenScores) {
        let summary = &mut self.summary;
        summary.rows += scores.wins.len() as u64;
        summary.nan_pairs += scores.nan_pairs;
        for (&wins, &scored) in scores.wins.iter().zip(&scores.anchors_scored) {
            summary.pairs_scored += u64::from(scored);
            if scored > 0 {
                summary.rows_scored += 1;
                summary.histogram[wins as usize] += 1;
                self.score_sum += golden_score(wins, scored);
            }
        }
    }

    fn write(&mut self, ids: Ids, scores: &GoldenScores) -> Result<(), LogprobsError> {
        if scores.wins.is_empty() {
            return Ok(());
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(TableWriter::create(self.target, &ids.kind(), self.provenance)?),
        };
        self.summary.rows_written += scores.wins.len() as u64;
        writer.write(ids, scores)
    }

    /// Ends the table.
    ///
    /// # Arguments
    /// * `kind` - the type of the ids, should there be none.
    pub(crate) fn finish(mut self, kind: &DataType) -> Result<Summary, LogprobsError> {
        let kind = self.kind.take().map_or_else(|| kind.clone(), |(kind, _)| kind);
        let most = usize::try_from(self.keep.most(self.summary.rows)).unwrap_or(usize::MAX);
        let best = std::mem::replace(&mut self.best, BestRows::new(0)).finish(most);
        for chunk in best.chunks(CHUNK_ROWS) {
            let scores = GoldenScores {
                wins: chunk.iter().map(|place| place.wins).collect(),
                anchors_scored: chunk.iter().map(|place| place.anchors_scored).collect(),
                mean_gain_nats: chunk.iter().map(|place| place.mean_gain_nats).collect(),
                nan_pairs: 0,
            };
            self.write(Ids::from_ids(&kind, chunk.iter().map(|place| &place.id)), &scores)?;
        }
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => TableWriter::create(self.target, &kind, self.provenance)?,
        };
        writer.finish()?;
        let mut summary = self.summary;
        summary.mean_golden_score = self.score_sum / summary.rows_scored as f64;
        summary.pairs_left_out = summary.rows * summary.anchors as u64 - summary.pairs_scored;
        Ok(summary)
    }
}
