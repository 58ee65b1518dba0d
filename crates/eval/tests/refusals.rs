//! Bad models, documents and settings: typed errors with the place, the numbers and the remedy.

use std::convert::Infallible;
use std::error::Error;

use fewbit_eval::ndarray::Array2;
use fewbit_eval::{
    EvalError, Logits, compare, from_fn, perplexity_documents, perplexity_second_half,
    perplexity_windows,
};

const VOCAB: usize = 20;

fn flat() -> impl Logits<Error = Infallible> {
    from_fn(VOCAB, |tokens: &[u32]| Ok(Array2::zeros((tokens.len(), VOCAB))))
}

/// Flat but for one logit of documents of 5 tokens.
fn spoiled(position: usize, token: usize, value: f32) -> impl Logits<Error = Infallible> {
    from_fn(VOCAB, move |tokens: &[u32]| {
        let mut logits = Array2::zeros((tokens.len(), VOCAB));
        if tokens.len() == 5 {
            logits[[position, token]] = value;
        }
        Ok(logits)
    })
}

fn documents() -> Vec<Vec<u32>> {
    vec![vec![1, 2, 3], vec![1, 4], vec![1, 2, 3, 4, 5]]
}

#[test]
fn a_logit_that_is_not_finite_is_named() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = perplexity_documents(&mut spoiled(3, 19, value), documents(), 512).unwrap_err();
        let EvalError::NonFiniteLogit { document: 2, position: 3, token: 19, .. } = error else {
            panic!("{error}")
        };
        let text = error.to_string();
        assert!(text.contains("position 3 of document 2") && text.contains("overflow"), "{text}");
    }
    // The last position predicts nothing, so its logits are not looked at.
    assert!(perplexity_documents(&mut spoiled(4, 0, f32::NAN), documents(), 512).is_ok());
    assert!(perplexity_documents(&mut spoiled(3, 19, f32::MAX), documents(), 512).is_ok());
}

#[test]
fn a_comparison_says_which_model_was_at_fault() {
    let bad = || spoiled(2, 7, f32::NAN);
    let error = compare(&mut bad(), &mut flat(), documents(), 512).unwrap_err();
    assert_eq!(error.to_string(), "in the baseline of the comparison");
    let source = error.source().unwrap().to_string();
    assert!(source.contains("token 7 at position 2 of document 2"), "{source}");
    let error = compare(&mut flat(), &mut bad(), documents(), 512).unwrap_err();
    assert!(matches!(error, EvalError::NonFiniteLogit { document: 2, position: 2, token: 7, .. }));
}

#[test]
fn the_first_of_several_bad_positions_is_reported() {
    let mut all_bad = from_fn(VOCAB, |tokens: &[u32]| {
        Ok::<_, Infallible>(Array2::from_elem((tokens.len(), VOCAB), f32::NAN))
    });
    let error = perplexity_documents(&mut all_bad, [vec![1; 300]], 512).unwrap_err();
    assert!(matches!(error, EvalError::NonFiniteLogit { document: 0, position: 0, token: 0, .. }));
}

#[test]
fn short_documents_are_refused_not_skipped() {
    for n_tokens in [0, 1] {
        let docs = [vec![1, 2], vec![1; n_tokens]];
        let error = perplexity_documents(&mut flat(), &docs, 512).unwrap_err();
        assert!(
            matches!(error, EvalError::DocumentTooShort { document: 1, n_tokens: n } if n == n_tokens)
        );
        assert!(error.to_string().contains("at least 2"), "{error}");
        assert!(compare(&mut flat(), &mut flat(), &docs, 512).is_err());
    }
    let none: [Vec<u32>; 0] = [];
    let error = perplexity_documents(&mut flat(), &none, 512).unwrap_err();
    assert!(matches!(error, EvalError::NoDocuments), "{error}");
    let error = compare(&mut flat(), &mut flat(), &none, 512).unwrap_err();
    assert!(matches!(error, EvalError::NoDocuments), "{error}");
}

#[test]
fn lengths_that_predict_nothing_are_refused() {
    let refused = |result: Result<_, EvalError>| match result.map(|_: fewbit_eval::Perplexity| ()) {
        Err(EvalError::LengthTooSmall { length, minimum }) => (length, minimum),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(perplexity_documents(&mut flat(), documents(), 1)), (1, 2));
    assert_eq!(refused(perplexity_windows(&mut flat(), &[1, 2, 3], 0)), (0, 2));
    assert_eq!(refused(perplexity_second_half(&mut flat(), &[1, 2, 3], 2, None)), (2, 3));
    let error = perplexity_windows(&mut flat(), &[1, 2, 3], 4).unwrap_err();
    assert!(matches!(error, EvalError::TooFewTokens { n_tokens: 3, window: 4 }));
    let error = perplexity_second_half(&mut flat(), &[1, 2, 3], 4, None).unwrap_err();
    assert!(matches!(error, EvalError::TooFewTokens { n_tokens: 3, window: 4 }));
}

#[test]
fn unknown_tokens_are_found_before_the_model_runs() {
    let mut must_not_run = from_fn(VOCAB, |_: &[u32]| Err("the model ran".to_string()));
    let error = perplexity_documents(&mut must_not_run, [[1, 2, 20]], 512).unwrap_err();
    let EvalError::UnknownToken { document: 0, position: 2, token: 20, vocab_size: VOCAB } = error
    else {
        panic!("{error}")
    };
    assert!(error.to_string().contains("tokenizer of this model"), "{error}");
    let error = perplexity_second_half(&mut flat(), &[1; 8], 4, Some(99)).unwrap_err();
    assert!(matches!(error, EvalError::UnknownToken { position: 0, token: 99, .. }));
}

#[test]
fn the_error_of_a_model_is_the_source() {
    let mut failing = from_fn(VOCAB, |tokens: &[u32]| match tokens.len() {
        5 => Err("out of memory".to_string()),
        n => Ok(Array2::zeros((n, VOCAB))),
    });
    let error = perplexity_documents(&mut failing, documents(), 512).unwrap_err();
    assert_eq!(error.to_string(), "the model failed on document 2");
    assert_eq!(error.source().unwrap().to_string(), "out of memory");
}

#[test]
fn logits_of_the_wrong_shape_are_refused() {
    for (rows, columns) in [(1, VOCAB), (3, VOCAB - 1), (0, 0)] {
        let mut wrong =
            from_fn(VOCAB, |_: &[u32]| Ok::<_, Infallible>(Array2::zeros((rows, columns))));
        let error = perplexity_documents(&mut wrong, [[1, 2, 3]], 512).unwrap_err();
        let EvalError::LogitsShape { document: 0, n_tokens: 3, vocab_size: VOCAB, .. } = error
        else {
            panic!("{error}")
        };
        assert!(error.to_string().contains(&format!("{rows}x{columns}")), "{error}");
    }
}

#[test]
fn models_of_different_vocabularies_cannot_be_compared() {
    let mut other = from_fn(VOCAB + 1, |tokens: &[u32]| {
        Ok::<_, Infallible>(Array2::zeros((tokens.len(), VOCAB + 1)))
    });
    let error = compare(&mut flat(), &mut other, documents(), 512).unwrap_err();
    assert!(matches!(error, EvalError::VocabularyMismatch { baseline: VOCAB, model: 21 }));
}
