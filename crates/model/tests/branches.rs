//! Texts read together against each text alone.

mod common;

use common::{assert_close, cases, testdata};
use fewbit_checkpoint::Checkpoint;
use fewbit_model::{CacheType, Model, ModelError, Session, Wanted};
use fewbit_testkit::Random;

/// Of the largest logit: what the order of summation changes.
const TOLERANCE: f32 = 1e-5;

fn model(case: &str) -> Model {
    Model::load(&Checkpoint::open(&testdata().join(case)).unwrap()).unwrap()
}

fn tokens(random: &mut Random, model: &Model, n: usize) -> Vec<u32> {
    (0..n).map(|_| random.below(model.config().vocab_size) as u32).collect()
}

/// Texts of which each begins like one of those before it, or of its own; as long as the model takes at most.
fn texts(random: &mut Random, model: &Model, n: usize) -> Vec<Vec<u32>> {
    let most = model.ends().n_positions().unwrap_or(usize::MAX).min(48);
    let mut all: Vec<Vec<u32>> = vec![];
    for _ in 0..n {
        let mut text = match all.len() {
            0 => vec![],
            n => all[n - 1 - random.below(n.min(2))].clone(),
        };
        text.truncate(random.below(text.len() + 2));
        let more = [0, 1, 2, 30][random.below(4)];
        text.extend(tokens(random, model, more));
        text.truncate(most);
        all.push(text);
    }
    all
}

/// Every wanted row of every text, read by itself.
fn assert_read(session: &mut Session<'_>, texts: &[Wanted<'_>], case: &str) {
    let all = session.read(texts).unwrap();
    assert_eq!(all.len(), texts.len());
    for (number, (got, text)) in all.iter().zip(texts).enumerate() {
        let alone = session.model().logits(text.tokens).unwrap();
        let n_rows = text.rows.min(text.tokens.len());
        assert_eq!(got.dim(), (n_rows, alone.ncols()));
        let expected: Vec<f32> =
            alone.rows().into_iter().skip(text.tokens.len() - n_rows).flatten().copied().collect();
        assert_close(got.as_slice().unwrap(), &expected, TOLERANCE, &format!("{case}, {number}"));
    }
}

#[test]
fn trees_of_texts_read_as_each_text_alone_in_every_architecture() {
    for case in cases() {
        let model = model(&case);
        let mut random = Random::new(case.len() as u64);
        // One session for all: what it holds from one call is part of the next tree.
        let mut session = model.session();
        for round in 0..8 {
            let texts = texts(&mut random, &model, 1 + round);
            let wanted: Vec<Wanted<'_>> = texts
                .iter()
                .map(|tokens| match random.below(3) {
                    0 => Wanted::all(tokens),
                    1 => Wanted { tokens, rows: 1 },
                    _ => Wanted { tokens, rows: random.below(tokens.len() + 1) },
                })
                .collect();
            assert_read(&mut session, &wanted, &case);
            assert_eq!(session.tokens(), texts.last().unwrap());
        }
        // It goes on after the last text.
        let text = tokens(&mut random, &model, 12);
        session.read(&[Wanted { tokens: &text[..7], rows: 0 }]).unwrap();
        let got = session.feed_all(&text[7..]).unwrap();
        let alone = model.logits(&text).unwrap();
        let expected: Vec<f32> = alone.rows().into_iter().skip(7).flatten().copied().collect();
        assert_close(got.as_slice().unwrap(), &expected, TOLERANCE, &case);
    }
}

#[test]
fn windows_shorter_than_the_prefix() {
    let windowed = |case: &String| model(case).config().window.is_some();
    let cases: Vec<String> = cases().into_iter().filter(windowed).collect();
    assert!(cases.len() >= 2, "{cases:?}");
    for case in cases {
        let model = model(&case);
        let width = model.config().window.as_ref().unwrap().width;
        let mut random = Random::new(8);
        let prefix = tokens(&mut random, &model, 3 * width);
        let texts =
            [1, width + 3, 0, 2].map(|n| [&*prefix, &tokens(&mut random, &model, n)].concat());
        let wanted = texts.each_ref().map(|tokens| Wanted { tokens, rows: tokens.len() / 2 });
        let mut session = model.session();
        assert_read(&mut session, &wanted, &case);
        assert_read(&mut session, &wanted, &case);
    }
}

/// Nothing, no rows, and the same text twice.
#[test]
fn the_least_there_can_be() {
    let case = &cases()[0];
    let model = model(case);
    let mut session = model.session();
    assert!(session.read(&[]).unwrap().is_empty());
    assert_read(&mut session, &[Wanted::all(&[])], case);
    assert_read(&mut session, &[Wanted::all(&[1, 2, 3]), Wanted::all(&[1, 2, 3])], case);
    assert!(session.read(&[]).unwrap().is_empty());
    assert_eq!(session.tokens(), [1, 2, 3]);
    assert_read(&mut session, &[Wanted { tokens: &[1, 2], rows: 0 }], case);
    assert_eq!(session.len(), 2);
    assert_read(&mut session, &[Wanted { tokens: &[1, 2], rows: 9 }, Wanted::all(&[])], case);
    assert!(session.is_empty());
}

#[test]
fn what_cannot_be_read_leaves_the_session_as_it_was() {
    let learned = |case: &String| model(case).ends().n_positions().is_some();
    let case = cases().into_iter().find(learned).expect("a GPT-2");
    let model = model(&case);
    let most = model.ends().n_positions().unwrap();
    let text = vec![1; most + 1];
    let mut session = model.session();
    session.feed(&[1, 2, 3]).unwrap();
    // Fits to the last position.
    assert_read(&mut session, &[Wanted::all(&text[..most]), Wanted::all(&[1, 2, 3])], &case);
    let error = session.read(&[Wanted::all(&[4]), Wanted::all(&text)]).unwrap_err();
    assert!(
        matches!(error, ModelError::TooLong { tokens, positions } if (tokens, positions) == (most + 1, most)),
        "{error}"
    );
    let unknown = [1, 2, 3, 4, u32::MAX];
    let error = session.read(&[Wanted::all(&[4]), Wanted::all(&unknown)]).unwrap_err();
    assert!(matches!(error, ModelError::Token { position: 4, .. }), "{error}");
    assert_eq!(session.tokens(), [1, 2, 3]);
    assert_read(&mut session, &[Wanted { tokens: &[1, 2, 3, 4], rows: 1 }], &case);
}

/// Rows in few bits are rounded as they are when a text is fed: the same codes, but for those on an edge.
#[test]
fn every_cache_type_reads_trees() {
    for case in cases() {
        let model = model(&case);
        for (cache, mean) in [(CacheType::F16, 1e-4), (CacheType::Q8, 4e-3), (CacheType::Q4, 6e-2)]
        {
            let mut random = Random::new(4);
            let mut session = model.session_with(cache);
            for _ in 0..3 {
                let texts = texts(&mut random, &model, 5);
                let wanted: Vec<Wanted<'_>> = texts.iter().map(|text| Wanted::all(text)).collect();
                for (got, text) in session.read(&wanted).unwrap().iter().zip(&texts) {
                    let alone = model.session_with(cache).feed_all(text).unwrap();
                    let largest = alone.iter().fold(0f32, |m, x| m.max(x.abs()));
                    let off: f32 = got.iter().zip(&alone).map(|(a, b)| (a - b).abs()).sum();
                    let off = off / (alone.len() as f32 * largest).max(1.0);
                    assert!(off < mean, "{case}, {cache:?}: off by {off} of the largest");
                }
            }
        }
    }
}
