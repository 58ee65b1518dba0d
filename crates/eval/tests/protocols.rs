//! The protocols against closed forms and against plain f64 formulas.

use std::convert::Infallible;

use fewbit_eval::ndarray::{Array2, ShapeBuilder};
use fewbit_eval::{
    EvalError, Logits, compare, from_fn, perplexity_documents, perplexity_second_half,
    perplexity_windows, statistics,
};
use fewbit_testkit::Random;

const VOCAB: usize = 37;

/// Logits that depend on the token, the position and a seed; `offset` is added to whole rows.
fn noise(seed: u64, spread: f32, offset: f32) -> impl Logits<Error = Infallible> {
    from_fn(VOCAB, move |tokens: &[u32]| {
        let mut logits = Array2::zeros((tokens.len(), VOCAB));
        for (position, (mut row, &token)) in logits.rows_mut().into_iter().zip(tokens).enumerate() {
            let mut random = Random::new(seed + u64::from(token) * 1000 + position as u64);
            row.mapv_inplace(|_: f32| offset + spread * random.normal() as f32);
        }
        Ok(logits)
    })
}

fn documents(seed: u64, lengths: &[usize]) -> Vec<Vec<u32>> {
    let mut random = Random::new(seed);
    lengths.iter().map(|&n| (0..n).map(|_| random.below(VOCAB) as u32).collect()).collect()
}

fn log_softmax(row: impl Iterator<Item = f32>) -> Vec<f64> {
    let row: Vec<f64> = row.map(f64::from).collect();
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    row.iter().map(|x| x - max - log_sum).collect()
}

/// Log-probabilities of every position by the plain formula.
fn reference(model: &mut impl Logits<Error = Infallible>, tokens: &[u32]) -> Vec<Vec<f64>> {
    let Ok(logits) = model.logits(tokens);
    logits.rows().into_iter().map(|row| log_softmax(row.iter().copied())).collect()
}

fn close(got: f64, want: f64, bound: f64) {
    assert!((got - want).abs() <= bound, "{got} != {want} (bound {bound:e})");
}

#[test]
fn documents_agree_with_plain_formulas() {
    let docs = documents(1, &[2, 9, 30, 17]);
    let (max_len, mut model) = (20, noise(3, 2.0, 0.0));
    let result = perplexity_documents(&mut model, &docs, max_len).unwrap();
    let mut nlls = Vec::new();
    for (i, document) in docs.iter().enumerate() {
        let tokens = &document[..document.len().min(max_len)];
        let log_p = reference(&mut model, tokens);
        let nll: Vec<f64> = (1..tokens.len()).map(|t| -log_p[t - 1][tokens[t] as usize]).collect();
        close(result.documents[i].nll, nll.iter().sum(), 1e-12);
        assert_eq!(result.documents[i].n_tokens, tokens.len() - 1);
        nlls.extend(nll);
    }
    assert_eq!((result.n_documents, result.n_tokens), (4, 1 + 8 + 19 + 16));
    let tokens = statistics::estimate(&nlls).unwrap();
    close(result.mean_nll, tokens.value, 1e-12);
    close(result.perplexity, tokens.value.exp(), 1e-10);
    close(result.token_standard_error.unwrap(), tokens.standard_error.unwrap(), 1e-12);
    let error = result.perplexity_standard_error().unwrap();
    close(error, result.perplexity * result.standard_error.unwrap(), 0.0);
}

#[test]
fn windows_are_never_joined_and_the_remainder_is_dropped() {
    let tokens = documents(2, &[70]).remove(0);
    let by_window = perplexity_windows(&mut noise(5, 1.0, 0.0), &tokens, 16).unwrap();
    let by_document =
        perplexity_documents(&mut noise(5, 1.0, 0.0), tokens.chunks_exact(16), 16).unwrap();
    assert_eq!(by_window, by_document);
    assert_eq!((by_window.n_documents, by_window.n_tokens), (4, 4 * 15));
}

#[test]
fn second_half_scores_what_llama_cpp_scores() {
    let tokens = documents(3, &[40]).remove(0);
    let (window, bos) = (12, 7);
    let mut model = noise(6, 1.5, 0.0);
    let result = perplexity_second_half(&mut model, &tokens, window, Some(bos)).unwrap();
    let (mut sum, mut count) = (0.0, 0);
    for chunk in tokens.chunks_exact(window) {
        let mut input = chunk.to_vec();
        input[0] = bos;
        let log_p = reference(&mut model, &input);
        for position in window / 2..=window - 2 {
            sum -= log_p[position][chunk[position + 1] as usize];
            count += 1;
        }
    }
    assert_eq!((result.n_tokens, count), (3 * 5, 15));
    close(result.mean_nll, sum / f64::from(count), 1e-12);
    // 255 of a window of 512, as llama.cpp.
    let long = documents(4, &[512]).remove(0);
    assert_eq!(perplexity_second_half(&mut model, &long, 512, None).unwrap().n_tokens, 255);
}

#[test]
fn a_sure_and_right_model_has_perplexity_one() {
    let docs = documents(5, &[12, 20]);
    let expected = docs.clone();
    let mut call = 0;
    let mut oracle = from_fn(VOCAB, move |tokens: &[u32]| {
        let document = &expected[call];
        call += 1;
        Ok::<_, Infallible>(Array2::from_shape_fn((tokens.len(), VOCAB), |(t, i)| {
            let next = document.get(t + 1).copied().unwrap_or(0) as usize;
            if i == next { 1e4 } else { -1e4 }
        }))
    });
    let result = perplexity_documents(&mut oracle, &docs, 512).unwrap();
    assert_eq!((result.perplexity, result.mean_nll), (1.0, 0.0));
    assert_eq!(result.standard_error, Some(0.0));
}

#[test]
fn extreme_logits_stay_finite() {
    // The baseline is sure of token 0, the model of token 1, by 2e4 nats.
    let sure_of = |top: usize| {
        from_fn(3, move |tokens: &[u32]| {
            let logit = |(_, i): (usize, usize)| if i == top { 1e4 } else { -1e4 };
            Ok::<_, Infallible>(Array2::from_shape_fn((tokens.len(), 3), logit))
        })
    };
    let result = compare(&mut sure_of(0), &mut sure_of(1), [[0, 0, 0]], 8).unwrap();
    close(result.kl.value, 2e4, 1e-9);
    close(result.model.mean_nll, 2e4, 1e-9);
    assert_eq!(result.baseline.mean_nll, 0.0);
    assert_eq!(result.top1_agreement.value, 0.0);
    assert_eq!(result.model.perplexity, f64::INFINITY);
}

#[test]
fn divergence_agrees_with_plain_formulas() {
    let docs = documents(6, &[25, 3, 40, 11, 8]);
    let (mut base, mut model) = (noise(1, 2.0, 0.0), noise(2, 2.0, 0.0));
    let result = compare(&mut base, &mut model, &docs, 32).unwrap();
    let (mut kl, mut kl_documents, mut same) = (Vec::new(), Vec::new(), 0);
    for document in &docs {
        let tokens = &document[..document.len().min(32)];
        let (p, q) = (reference(&mut base, tokens), reference(&mut model, tokens));
        let start = kl.len();
        for t in 0..tokens.len() - 1 {
            kl.push(p[t].iter().zip(&q[t]).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
            let top = |row: &[f64]| (0..VOCAB).max_by(|&i, &j| row[i].total_cmp(&row[j]));
            same += usize::from(top(&p[t]) == top(&q[t]));
        }
        kl_documents.push((kl[start..].iter().sum(), kl.len() - start));
    }
    let want = statistics::clustered(&kl_documents).unwrap();
    close(result.kl.value, want.value, 1e-13);
    close(result.kl.standard_error.unwrap(), want.standard_error.unwrap(), 1e-13);
    let tokens = statistics::estimate(&kl).unwrap();
    close(result.kl_token_standard_error.unwrap(), tokens.standard_error.unwrap(), 1e-13);
    close(result.kl_median, statistics::median(&kl).unwrap(), 1e-13);
    close(result.kl_p99, statistics::percentile(&kl, 0.99).unwrap(), 1e-13);
    close(result.kl_max, kl.iter().copied().fold(0.0, f64::max), 1e-13);
    close(result.top1_agreement.value, same as f64 / kl.len() as f64, 0.0);
    assert!(same > 0, "the case must have agreements");
    // The two perplexities are those of the perplexity protocol.
    assert_eq!(result.baseline, perplexity_documents(&mut base, &docs, 32).unwrap());
    assert_eq!(result.model, perplexity_documents(&mut model, &docs, 32).unwrap());
    let ratio = (result.model.perplexity / result.baseline.perplexity).ln();
    close(result.ln_ratio.value, ratio, 1e-13);
    assert_eq!(result.ln_ratio, result.model.ln_ratio(&result.baseline).unwrap());
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    let docs = documents(7, &[25, 30]);
    let result = compare(&mut noise(1, 3.0, 0.0), &mut noise(1, 3.0, 0.0), &docs, 512).unwrap();
    assert_eq!((result.kl.value, result.kl_max, result.top1_agreement.value), (0.0, 0.0, 1.0));
    assert_eq!((result.ln_ratio.value, result.ln_ratio.standard_error), (0.0, Some(0.0)));
}

#[test]
fn a_constant_added_to_the_logits_changes_nothing() {
    let docs = documents(8, &[25, 30]);
    // Powers of two on a coarse grid, so that the addition itself is exact.
    let coarse = |offset: f32| {
        let mut inner = noise(1, 2.0, 0.0);
        from_fn(VOCAB, move |tokens: &[u32]| {
            let mut logits = inner.logits(tokens)?;
            logits.mapv_inplace(|x| (x * 64.0).round() / 64.0 + offset);
            Ok::<_, Infallible>(logits)
        })
    };
    let mut base = noise(2, 2.0, 0.0);
    let plain = compare(&mut base, &mut coarse(0.0), &docs, 512).unwrap();
    for offset in [-4096.0, 512.0] {
        assert_eq!(compare(&mut base, &mut coarse(offset), &docs, 512).unwrap(), plain);
    }
}

#[test]
fn memory_order_of_the_logits_does_not_matter() {
    let docs = documents(9, &[15, 22]);
    let mut inner = noise(1, 2.0, 0.0);
    let mut columns_first = from_fn(VOCAB, move |tokens: &[u32]| {
        let Ok(logits) = inner.logits(tokens);
        let mut out = Array2::zeros((tokens.len(), VOCAB).f());
        out.assign(&logits);
        assert!(!out.is_standard_layout());
        Ok::<_, Infallible>(out)
    });
    let got = perplexity_documents(&mut columns_first, &docs, 512).unwrap();
    assert_eq!(got, perplexity_documents(&mut noise(1, 2.0, 0.0), &docs, 512).unwrap());
}

#[test]
fn documents_are_asked_for_one_at_a_time() {
    let lengths = [10, 20, 15];
    let docs = documents(10, &lengths);
    let mut produced = 0;
    let seen = std::cell::Cell::new(0);
    let mut model = from_fn(VOCAB, |tokens: &[u32]| {
        seen.set(seen.get() + 1);
        Ok::<_, Infallible>(Array2::zeros((tokens.len(), VOCAB)))
    });
    let stream = docs.iter().inspect(|_| {
        assert_eq!(seen.get(), produced, "each document is evaluated before the next is made");
        produced += 1;
    });
    perplexity_documents(&mut model, stream, 512).unwrap();
    assert_eq!(seen.get(), lengths.len());
}

#[test]
fn paired_ratio_has_a_smaller_error_than_its_parts() {
    let docs = documents(11, &[30; 20]);
    let mut base = noise(1, 2.0, 0.0);
    let mut near = {
        let (mut inner, mut change) = (noise(1, 2.0, 0.0), noise(9, 0.02, 0.0));
        from_fn(VOCAB, move |tokens: &[u32]| {
            Ok::<_, Infallible>(inner.logits(tokens)? + change.logits(tokens)?)
        })
    };
    let result = compare(&mut base, &mut near, &docs, 512).unwrap();
    let paired = result.ln_ratio.standard_error.unwrap();
    assert!(paired < 0.1 * result.baseline.standard_error.unwrap(), "{result:?}");
    // KL of a small random change of the logits: half the variance of the change.
    close(result.kl.value, 0.5 * 0.02 * 0.02, 0.2 * 0.5 * 0.02 * 0.02);
}

#[test]
fn results_serialize_without_the_per_document_scores() {
    let docs = documents(12, &[5, 6]);
    let result = compare(&mut noise(1, 1.0, 0.0), &mut noise(2, 1.0, 0.0), &docs, 512).unwrap();
    let json = serde_json::to_value(&result).unwrap();
    assert_eq!(json["model"]["n_tokens"], 9);
    assert_eq!(json["kl"]["value"].as_f64(), Some(result.kl.value));
    assert!(json["model"].get("documents").is_none());
}

#[test]
fn results_of_other_documents_are_not_paired() {
    let mut model = noise(1, 1.0, 0.0);
    let all = perplexity_documents(&mut model, documents(13, &[5, 6, 7]), 512).unwrap();
    let fewer = perplexity_documents(&mut model, documents(13, &[5, 6]), 512).unwrap();
    let shorter = perplexity_documents(&mut model, documents(13, &[5, 6, 7]), 6).unwrap();
    let differs = |a: &fewbit_eval::Perplexity, b| match a.ln_ratio(b).unwrap_err() {
        EvalError::NotPaired { document, left, right } => (document, left, right),
        other => panic!("{other}"),
    };
    assert_eq!(differs(&all, &fewer), (2, 6, 0));
    assert_eq!(differs(&fewer, &all), (2, 0, 6));
    assert_eq!(differs(&all, &shorter), (2, 6, 5));
}

#[cfg(feature = "rayon")]
#[test]
fn the_number_of_threads_changes_no_bit() {
    let docs = documents(14, &[200, 3, 77]);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            compare(&mut noise(1, 2.0, 0.0), &mut noise(2, 2.0, 0.0), &docs, 512).unwrap()
        })
    };
    let one = run(1);
    assert_eq!(run(2), one);
    assert_eq!(run(5), one);
}
