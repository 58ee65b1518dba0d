//! Scoring of choices against a model whose probabilities are known.

use std::convert::Infallible;

use fewbit_eval::{
    EvalError, FromFn, from_fn,
    ndarray::Array2,
    tasks::{ChoiceItem, score_choice},
};

mod common;
use common::Bytes;

/// Logit of a token after the whole text before it: of `n` bytes whose sum is `sum`.
fn logit(sum: u32, n: usize, token: usize) -> f32 {
    ((sum as usize * 31 + n * 7 + token * 17) % 29) as f32 / 5.0
}

fn model(calls: &mut Vec<usize>) -> FromFn<impl FnMut(&[u32]) -> Result<Array2<f32>, Infallible>> {
    from_fn(256, |tokens: &[u32]| {
        calls.push(tokens.len());
        Ok(Array2::from_shape_fn((tokens.len(), 256), |(t, i)| {
            logit(tokens[..=t].iter().sum(), t + 1, i)
        }))
    })
}

/// ln p of `choice` after `context`, by definition.
fn log_likelihood(context: &str, choice: &str) -> f64 {
    let mut text = context.to_string();
    let mut sum = 0.0;
    for byte in choice.bytes() {
        let before: u32 = text.bytes().map(u32::from).sum();
        let logits: Vec<f64> = (0..256).map(|i| f64::from(logit(before, text.len(), i))).collect();
        let total: f64 = logits.iter().map(|x| x.exp()).sum();
        sum += logits[byte as usize] - total.ln();
        text.push(char::from(byte));
    }
    sum
}

fn item(context: &str, choices: &[&str]) -> ChoiceItem {
    let choices = choices.iter().map(ToString::to_string).collect();
    ChoiceItem { context: context.into(), choices, gold: 0 }
}

#[test]
fn likelihoods_by_definition() {
    let mut calls = vec![];
    // White space at the end of the context goes to the choices.
    let item = item("Why?  ", &["one", "three", "x"]);
    let score = score_choice(&mut model(&mut calls), &Bytes, 0, &item, 100).unwrap();
    for (got, choice) in score.log_likelihoods.iter().zip(["   one", "   three", "   x"]) {
        let expected = log_likelihood("Why?", choice);
        assert!((got - expected).abs() < 1e-6, "{got} instead of {expected}");
    }
    assert_eq!((&*score.chars, score.tokens_cut), (&[3, 5, 1][..], 0));
    assert_eq!(calls, [9, 11, 7]);
}

#[test]
fn single_tokens_need_one_run() {
    let mut calls = vec![];
    let score = score_choice(&mut model(&mut calls), &Bytes, 0, &item("Q:", &["A"]), 100).unwrap();
    assert!((score.log_likelihoods[0] - log_likelihood("Q:", " A")).abs() < 1e-6);
    let mut calls = vec![];
    let mut model = model(&mut calls);
    let all = fewbit_eval::Logits::continuation_logits(&mut model, &[1, 2], &[&[3], &[4], &[5, 6]]);
    let all = all.unwrap();
    assert_eq!(all[0], all[1]);
    assert_eq!(all[2].dim(), (2, 256));
    assert_eq!(all[2].row(0), all[0].row(0));
    drop(model);
    assert_eq!(calls, [2, 3]);
}

#[test]
fn what_is_too_long_loses_its_beginning() {
    let mut calls = vec![];
    let item = item("abcdefgh", &["i", "jkl"]);
    let score = score_choice(&mut model(&mut calls), &Bytes, 0, &item, 8).unwrap();
    // 8 + 4 tokens, of which all but the last are read: 3 too many.
    assert_eq!(score.tokens_cut, 3);
    for (got, (context, choice)) in
        score.log_likelihoods.iter().zip([("bcdefgh", " i"), ("defgh", " jkl")])
    {
        let expected = log_likelihood(context, choice);
        assert!((got - expected).abs() < 1e-6, "{got} instead of {expected}");
    }
    assert_eq!(calls, [8, 8]);
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let score = |context: &str, choices: &[&str], max_len| {
        let mut calls = vec![];
        score_choice(&mut model(&mut calls), &Bytes, 7, &item(context, choices), max_len)
    };
    let error = score("abc", &["x", "long"], 4).unwrap_err();
    let (item, choice, n_tokens, max_len) = (7, 1, 5, 4);
    assert!(
        matches!(error, EvalError::ChoiceTooLong { item: i, choice: c, n_tokens: n, max_len: m }
        if (i, c, n, m) == (item, choice, n_tokens, max_len))
    );
    assert!(matches!(score(" \n", &["x"], 9).unwrap_err(), EvalError::NoContext { item: 7 }));
    let mut broken = from_fn(256, |tokens: &[u32]| {
        Ok::<_, Infallible>(Array2::from_elem((tokens.len(), 256), f32::NAN))
    });
    let item = self::item("a", &["b"]);
    let error = score_choice(&mut broken, &Bytes, 7, &item, 9).unwrap_err();
    assert!(matches!(error, EvalError::NonFiniteLogit { document: 7, .. }), "{error}");
}
