//! Properties of golden-score aggregation, against a slow, obvious twin.

use proptest::prelude::*;
use pyllm_golden::{BLOCK_PAIRS, GoldenScores, golden_scores, golden_wins};
use rayon::ThreadPoolBuilder;

/// Few values, so that ties are common, and everything that is not a number.
fn sums(count: usize) -> impl Strategy<Value = Vec<f64>> {
    let value = prop_oneof![
        8 => (-4_i32..=0).prop_map(|value| f64::from(value) / 2.0),
        1 => Just(f64::NAN),
        1 => Just(f64::NEG_INFINITY),
    ];
    proptest::collection::vec(value, count)
}

#[derive(Debug)]
struct Pairs {
    rows: usize,
    one_shot: Vec<f64>,
    zero_shot: Vec<f64>,
    left_out: Vec<bool>,
}

fn pairs() -> impl Strategy<Value = Pairs> {
    (0_usize..12, 0_usize..9).prop_flat_map(|(rows, anchors)| {
        let left_out = proptest::collection::vec(proptest::bool::weighted(0.3), rows * anchors);
        (sums(rows * anchors), sums(anchors), left_out).prop_map(move |(one_shot, zero_shot, left_out)| Pairs {
            rows,
            one_shot,
            zero_shot,
            left_out,
        })
    })
}

fn bits(scores: &GoldenScores) -> (Vec<u32>, Vec<u32>, Vec<u64>, u64) {
    let means = scores.mean_gain_nats.iter().map(|mean| if mean.is_nan() { u64::MAX } else { mean.to_bits() });
    (scores.wins.clone(), scores.anchors_scored.clone(), means.collect(), scores.nan_pairs)
}

proptest! {
    #[test]
    fn equals_the_obvious_version(Pairs { rows, one_shot, zero_shot, left_out } in pairs()) {
        let scores = golden_scores(rows, &one_shot, &zero_shot, Some(&left_out)).unwrap();
        let mut nan_pairs = 0;
        for row in 0..rows {
            let at = |anchor: usize| row * zero_shot.len() + anchor;
            let tried: Vec<usize> = (0..zero_shot.len()).filter(|&anchor| !left_out[at(anchor)]).collect();
            let wins = tried.iter().filter(|&&anchor| one_shot[at(anchor)] > zero_shot[anchor]).count();
            let gains: Vec<f64> = tried.iter().map(|&anchor| one_shot[at(anchor)] - zero_shot[anchor]).collect();
            let numbers: Vec<f64> = gains.iter().copied().filter(|gain| !gain.is_nan()).collect();
            nan_pairs += gains.len() - numbers.len();
            prop_assert_eq!(scores.anchors_scored[row] as usize, tried.len());
            prop_assert_eq!(scores.wins[row] as usize, wins);
            let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
            let found = scores.mean_gain_nats[row];
            prop_assert!(found == mean || (found.is_nan() && mean.is_nan()), "{} {}", found, mean);
        }
        prop_assert_eq!(scores.nan_pairs, nan_pairs as u64);
    }

    #[test]
    fn merge_is_associative_and_gives_the_whole(pairs in pairs(), cuts in (0..=100_usize, 0..=100_usize)) {
        let anchors = pairs.zero_shot.len();
        let cut = |percent: usize| percent * pairs.rows / 100;
        let (first, second) = (cut(cuts.0.min(cuts.1)), cut(cuts.0.max(cuts.1)));
        let part = |from: usize, to: usize| {
            let range = from * anchors..to * anchors;
            let (sums, mask) = (&pairs.one_shot[range.clone()], &pairs.left_out[range]);
            golden_scores(to - from, sums, &pairs.zero_shot, Some(mask)).unwrap()
        };
        let (a, b, c) = (part(0, first), part(first, second), part(second, pairs.rows));
        let left = a.clone().merge(b.clone()).merge(c.clone());
        let right = a.merge(b.merge(c));
        prop_assert_eq!(bits(&left), bits(&right));
        prop_assert_eq!(bits(&left), bits(&part(0, pairs.rows)));
        prop_assert_eq!(bits(&GoldenScores::default().merge(left.clone())), bits(&left));
    }
}

proptest! {
    #[test]
    fn wins_alone_are_those_of_the_scores(Pairs { rows, one_shot, zero_shot, .. } in pairs()) {
        let scores = golden_scores(rows, &one_shot, &zero_shot, None).unwrap();
        let counted = golden_wins(rows, &one_shot, &zero_shot).unwrap();
        prop_assert_eq!((counted.wins, counted.nan_pairs), (scores.wins, scores.nan_pairs));
        let narrow: Vec<f32> = one_shot.iter().map(|&sum| sum as f32).collect();
        let scores = golden_scores(rows, &narrow, &zero_shot, None).unwrap();
        let counted = golden_wins(rows, &narrow, &zero_shot).unwrap();
        prop_assert_eq!((counted.wins, counted.nan_pairs), (scores.wins, scores.nan_pairs));
    }

    #[test]
    fn finite_zero_shot_sums_are_counted_alike(rows in 0_usize..5, anchors in 0_usize..40, seed in any::<u32>()) {
        let number = |at: usize| match (at * 31 + seed as usize) % 11 {
            0 => f64::NAN,
            1 => f64::NEG_INFINITY,
            2 => f64::INFINITY,
            other => -(other as f64),
        };
        let one_shot: Vec<f64> = (0..rows * anchors).map(number).collect();
        let zero_shot: Vec<f64> = (0..anchors).map(|at| -(((at + seed as usize) % 13) as f64)).collect();
        let scores = golden_scores(rows, &one_shot, &zero_shot, None).unwrap();
        let counted = golden_wins(rows, &one_shot, &zero_shot).unwrap();
        prop_assert_eq!((counted.wins, counted.nan_pairs), (scores.wins, scores.nan_pairs));
    }
}

#[test]
fn many_blocks_have_the_same_bits_on_any_number_of_threads() {
    let (rows, anchors) = (3 * BLOCK_PAIRS / 70, 70);
    let one_shot: Vec<f64> = (0..rows * anchors).map(|at| -((at as f64) * 0.618).fract()).collect();
    let zero_shot: Vec<f64> = (0..anchors).map(|at| -((at as f64) * 0.382).fract()).collect();
    let on = |threads: usize| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| golden_scores(rows, &one_shot, &zero_shot, None)).unwrap()
    };
    let one = on(1);
    assert_eq!(one.wins.len(), rows);
    assert_eq!(bits(&one), bits(&on(3)));
    assert_eq!(golden_wins(rows, &one_shot, &zero_shot).unwrap().wins, one.wins);
    for row in [0, rows / 2, rows - 1] {
        let alone = golden_scores(1, &one_shot[row * anchors..(row + 1) * anchors], &zero_shot, None).unwrap();
        assert_eq!(one.wins[row], alone.wins[0]);
        assert_eq!(one.mean_gain_nats[row].to_bits(), alone.mean_gain_nats[0].to_bits());
    }
}
