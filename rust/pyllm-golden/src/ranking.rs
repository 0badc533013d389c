//! The best rows of many, kept while they stream by.
//!
//! One order decides everywhere: golden score, wins, mean gain (all falling, none last), id, row (both rising). It is the
//! order of `toolkit select`, so cutting here or there keeps the same rows.

use std::cmp::Ordering;

/// Rows waiting before the first cut: sorting out fewer would cost more than it frees.
const LEAST_WAITING: usize = 1 << 14;

/// Wins over anchors scored; NaN when nothing was tried.
#[must_use]
pub fn golden_score(wins: u32, anchors_scored: u32) -> f64 {
    f64::from(wins) / f64::from(anchors_scored)
}

/// A row and what its place among others depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Place<I> {
    /// Anchors won.
    pub wins: u32,
    /// Anchors tried; above 0, since a row without a score has no place.
    pub anchors_scored: u32,
    /// Mean gain; NaN if there is none.
    pub mean_gain_nats: f64,
    /// Its name.
    pub id: I,
    /// Its place in the input.
    pub row: u64,
}

impl<I: Ord> Place<I> {
    /// `Less` when `self` is the better row.
    fn against(&self, other: &Self) -> Ordering {
        let score = |place: &Self| golden_score(place.wins, place.anchors_scored);
        falling(score(self), score(other))
            .then_with(|| other.wins.cmp(&self.wins))
            .then_with(|| falling(self.mean_gain_nats, other.mean_gain_nats))
            .then_with(|| self.id.cmp(&other.id))
            .then_with(|| self.row.cmp(&other.row))
    }
}

/// The larger first, NaN last, zeros equal whatever their sign.
fn falling(a: f64, b: f64) -> Ordering {
    a.is_nan().cmp(&b.is_nan()).then_with(|| b.partial_cmp(&a).unwrap_or(Ordering::Equal))
}

/// Keeps the best `most` rows of all that are offered, in memory for about twice as many.
#[derive(Debug)]
pub struct BestRows<I> {
    most: usize,
    waiting: Vec<Place<I>>,
    /// The lowest score that may still enter; rows below it are not even looked at.
    floor: f64,
}

impl<I: Ord> BestRows<I> {
    /// Keeps the best `most` rows; `usize::MAX` keeps all until [`BestRows::finish`] is told how many.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, waiting: Vec::new(), floor: f64::NEG_INFINITY }
    }

    /// Whether a row with this score could still be among the best. A row without a score never is.
    #[must_use]
    pub fn may_enter(&self, wins: u32, anchors_scored: u32) -> bool {
        golden_score(wins, anchors_scored) >= self.floor
    }

    /// Offers a row.
    pub fn offer(&mut self, place: Place<I>) {
        if !self.may_enter(place.wins, place.anchors_scored) {
            return;
        }
        self.waiting.push(place);
        if self.waiting.len() >= self.most.saturating_mul(2).max(LEAST_WAITING) {
            self.cut(self.most);
        }
    }

    fn cut(&mut self, most: usize) {
        if most == 0 {
            self.waiting.clear();
        } else if self.waiting.len() > most {
            let (_, last, _) = self.waiting.select_nth_unstable_by(most - 1, Place::against);
            self.floor = golden_score(last.wins, last.anchors_scored);
            self.waiting.truncate(most);
        }
    }

    /// The best rows, at most `most` and at most as many as [`BestRows::new`] was told, in input order.
    #[must_use]
    pub fn finish(mut self, most: usize) -> Vec<Place<I>> {
        self.cut(most.min(self.most));
        self.waiting.sort_unstable_by_key(|place| place.row);
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(wins: u32, anchors_scored: u32, mean_gain_nats: f64, id: &str, row: u64) -> Place<String> {
        Place { wins, anchors_scored, mean_gain_nats, id: id.to_owned(), row }
    }

    fn best(most: usize, places: &[Place<String>]) -> Vec<u64> {
        let mut rows = BestRows::new(most);
        for place in places {
            rows.offer(place.clone());
        }
        rows.finish(most).iter().map(|place| place.row).collect()
    }

    #[test]
    fn ties_go_by_wins_gain_id_and_row() {
        let places = [
            place(5, 10, 0.1, "d", 0),
            place(50, 100, 0.0, "c", 1),
            place(5, 10, f64::NAN, "a", 2),
            place(5, 10, 0.1, "b", 3),
            place(5, 10, 0.1, "b", 4),
            place(9, 10, -3.0, "z", 5),
        ];
        assert_eq!(best(1, &places), [5]);
        assert_eq!(best(2, &places), [1, 5]);
        assert_eq!(best(3, &places), [1, 3, 5]);
        assert_eq!(best(4, &places), [1, 3, 4, 5]);
        assert_eq!(best(5, &places), [0, 1, 3, 4, 5]);
        assert_eq!(best(9, &places), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_row_without_a_score_is_never_kept() {
        assert_eq!(best(3, &[place(0, 0, f64::NAN, "a", 0), place(0, 1, -1.0, "b", 1)]), [1]);
    }
}
