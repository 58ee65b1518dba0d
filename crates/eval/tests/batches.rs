//! Reading together against reading one by one, with a model that counts what it is asked.

use std::ops::ControlFlow;

use fewbit_eval::{
    Continuations, EvalError, Logits, compare, compare_second_half, from_fn,
    ndarray::Array2,
    perplexity_documents, perplexity_second_half,
    tasks::{ChoiceItem, ChoiceScore, Journal, run, run_batches, score_choices},
};

mod common;
use common::Bytes;

/// A model over bytes whose logits follow from all tokens before; it fails at byte 0 and has no finite logits after byte 1.
struct Counted {
    batch_tokens: usize,
    /// Texts of each call for several.
    batches: Vec<usize>,
    /// Calls for one.
    alone: usize,
}

impl Counted {
    fn new(batch_tokens: usize) -> Self {
        Self { batch_tokens, batches: vec![], alone: 0 }
    }

    fn rows(tokens: &[u32]) -> Result<Array2<f32>, String> {
        if tokens.contains(&0) {
            return Err("a zero".into());
        }
        Ok(Array2::from_shape_fn((tokens.len(), 256), |(t, i)| {
            let sum: u32 = tokens[..=t].iter().sum();
            if tokens[t] == 1 { f32::NAN } else { ((sum as usize * 31 + i * 17) % 29) as f32 / 5.0 }
        }))
    }
}

impl Logits for Counted {
    type Error = String;

    fn vocab_size(&self) -> usize {
        256
    }

    fn logits(&mut self, tokens: &[u32]) -> Result<Array2<f32>, String> {
        self.alone += 1;
        Self::rows(tokens)
    }

    fn batch_tokens(&self) -> usize {
        self.batch_tokens
    }

    fn batch_logits(&mut self, texts: &[&[u32]]) -> Result<Vec<Array2<f32>>, String> {
        self.batches.push(texts.len());
        texts.iter().map(|text| Self::rows(text)).collect()
    }

    fn batch_continuations(
        &mut self,
        items: &[Continuations<'_>],
    ) -> Result<Vec<Vec<Array2<f32>>>, String> {
        self.batches.push(items.len());
        let mut plain = from_fn(256, Self::rows);
        let one =
            |item: &Continuations<'_>| plain.continuation_logits(item.prefix, item.continuations);
        items.iter().map(one).collect()
    }
}

fn documents(n: usize) -> Vec<Vec<u32>> {
    (0..n).map(|i| (0..3 + i as u32 % 5).map(|t| 2 + (t * 7 + i as u32) % 250).collect()).collect()
}

#[test]
fn documents_have_the_same_perplexity_in_batches() {
    let documents = documents(20);
    let (mut alone, mut together) = (Counted::new(1), Counted::new(16));
    let expected = perplexity_documents(&mut alone, &documents, 6).unwrap();
    assert_eq!(perplexity_documents(&mut together, &documents, 6).unwrap(), expected);
    assert_eq!((alone.alone, alone.batches.len()), (20, 0));
    assert_eq!(together.batches.iter().sum::<usize>() + together.alone, 20);
    // Lengths of 3, 4, 5, 6 and 6 again and again: each batch ends with the text that reaches 16; the last is alone.
    assert_eq!((together.batches, together.alone), (vec![4, 4, 4, 3, 4], 1));

    let stream = documents.concat();
    let expected = perplexity_second_half(&mut Counted::new(0), &stream, 7, Some(9)).unwrap();
    let got = perplexity_second_half(&mut Counted::new(30), &stream, 7, Some(9)).unwrap();
    assert_eq!(got, expected);
}

#[test]
fn the_smaller_of_two_batches_is_that_of_a_comparison() {
    let documents = documents(20);
    let mut coarse =
        from_fn(256, |tokens: &[u32]| Counted::rows(tokens).map(|rows| rows.mapv(f32::round)));
    let expected = compare(&mut Counted::new(1), &mut coarse, &documents, 6).unwrap();
    let mut model = Counted::new(16);
    // A closure reads text by text.
    assert_eq!(compare(&mut model, &mut coarse, &documents, 6).unwrap(), expected);
    assert!(model.batches.is_empty() && expected.kl.value > 0.0);
    let (mut baseline, mut model) = (Counted::new(16), Counted::new(9));
    let got = compare(&mut baseline, &mut model, &documents, 6).unwrap();
    assert_eq!((got.kl.value, got.top1_agreement.value), (0.0, 1.0));
    assert_eq!(got.baseline, expected.baseline);
    assert_eq!(baseline.batches, model.batches);
    assert!(model.batches.iter().all(|&n| n <= 3));
    let stream = documents.concat();
    let got = compare_second_half(&mut Counted::new(30), &mut Counted::new(30), &stream, 7, None)
        .unwrap();
    let expected = perplexity_second_half(&mut Counted::new(1), &stream, 7, None).unwrap();
    assert_eq!(got.model, expected);
}

#[test]
fn errors_name_the_first_document_that_is_wrong() {
    let of = |documents: &[Vec<u32>]| {
        let one_by_one =
            perplexity_documents(&mut Counted::new(1), documents, 6).unwrap_err().to_string();
        let error = perplexity_documents(&mut Counted::new(12), documents, 6).unwrap_err();
        assert_eq!(error.to_string(), one_by_one);
        let mut models = (Counted::new(12), Counted::new(12));
        let compared = compare(&mut models.0, &mut models.1, documents, 6).unwrap_err();
        (error, compared)
    };
    // The model fails in the middle of a batch.
    let mut wrong = documents(8);
    wrong[5][1] = 0;
    let (error, compared) = of(&wrong);
    assert!(matches!(error, EvalError::Model { document: 5, .. }), "{error}");
    assert!(
        matches!(compared, EvalError::Baseline { source } if matches!(*source, EvalError::Model { document: 5, .. }))
    );
    // What is not finite comes before it.
    wrong[4][2] = 1;
    assert!(matches!(of(&wrong).0, EvalError::NonFiniteLogit { document: 4, position: 2, .. }));
    // What is not a document does not hide it.
    wrong[5] = vec![7];
    assert!(matches!(of(&wrong).0, EvalError::NonFiniteLogit { document: 4, .. }));
    wrong[4][2] = 9;
    assert!(matches!(of(&wrong).0, EvalError::DocumentTooShort { document: 5, n_tokens: 1 }));
    wrong[3][0] = 256;
    assert!(matches!(of(&wrong).0, EvalError::UnknownToken { document: 3, position: 0, .. }));
}

fn items(n: usize) -> Vec<ChoiceItem> {
    let item = |i: usize| ChoiceItem {
        context: format!("Question {i}, so long that it has to be asked:"),
        choices: ["one", "two or more", &"x".repeat(1 + i % 4)].map(String::from).into(),
        gold: i % 3,
    };
    (0..n).map(item).collect()
}

fn scored(
    model: &mut Counted,
    items: &[ChoiceItem],
    journal: &mut Journal<ChoiceScore>,
    max_len: usize,
) -> Result<Vec<ChoiceScore>, EvalError> {
    let go_on = |_, _| ControlFlow::Continue(());
    run_batches(items, journal, go_on, |number, left| {
        score_choices(model, &Bytes, number, left, max_len)
    })
    .map(<[_]>::to_vec)
}

#[test]
fn choices_have_the_same_likelihoods_in_batches() {
    let items = items(13);
    for max_len in [1000, 40] {
        let mut alone = Counted::new(1);
        let expected = scored(&mut alone, &items, &mut Journal::in_memory(), max_len).unwrap();
        assert!(alone.batches.is_empty());
        assert_eq!(expected[0].tokens_cut > 0, max_len == 40);
        for batch_tokens in [2, 150, 250, 100_000] {
            let mut model = Counted::new(batch_tokens);
            let got = scored(&mut model, &items, &mut Journal::in_memory(), max_len).unwrap();
            assert_eq!(got, expected, "{batch_tokens} tokens");
            assert_eq!(model.batches.is_empty(), batch_tokens == 2);
            assert_eq!(model.batches.len() == 1, batch_tokens == 100_000);
        }
    }
    assert!(score_choices(&mut Counted::new(9), &Bytes, 0, &[], 9).unwrap().is_empty());
}

#[test]
fn what_items_share_counts_once() {
    let long = "Solved examples. ".repeat(20);
    let mut items = items(9);
    items.iter_mut().for_each(|item| item.context = format!("{long}{}", item.context));
    let mut model = Counted::new(500);
    // 340 bytes of examples, then less than 80 of each question.
    let scores = score_choices(&mut model, &Bytes, 0, &items, 1000).unwrap();
    assert!(scores.len() >= 3, "{} items", scores.len());
}

#[test]
fn an_item_that_fails_keeps_those_before_it_and_is_named() {
    // In the same batch: no finite logits, a failing model, no context.
    for bad in ["\u{1}", "\0", ""] {
        let mut items = items(12);
        items[7].context = bad.to_string();
        let mut journal = Journal::in_memory();
        let error = scored(&mut Counted::new(10_000), &items, &mut journal, 1000).unwrap_err();
        let mut alone = Journal::in_memory();
        let expected = scored(&mut Counted::new(1), &items, &mut alone, 1000).unwrap_err();
        assert_eq!(error.to_string(), expected.to_string());
        assert!(error.to_string().contains('7'), "{error}");
        assert_eq!(journal.results(), alone.results());
        assert_eq!(journal.results().len(), 7);
    }
}

#[test]
fn an_interrupted_batch_goes_on_in_its_middle() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("task.jsonl");
    let items = items(12);
    let open = || Journal::<ChoiceScore>::open(&file, &"run", &items).unwrap();
    let all = scored(&mut Counted::new(300), &items, &mut open(), 1000).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    for kept in [1, 4, 8, 12] {
        let lines: String = text.split_inclusive('\n').take(1 + kept).collect();
        std::fs::write(&file, lines).unwrap();
        let mut first = None;
        let mut model = Counted::new(300);
        let go_on = |_, _| ControlFlow::Continue(());
        let got = run_batches(&items, &mut open(), go_on, |number, left| {
            first.get_or_insert(number);
            score_choices(&mut model, &Bytes, number, left, 1000)
        })
        .map(<[_]>::to_vec);
        assert_eq!(got.unwrap(), all);
        assert_eq!(first, (kept < 12).then_some(kept));
    }
    assert_eq!(
        run(&items, &mut open(), |_, _| ControlFlow::Continue(()), |_, _| unreachable!()).unwrap(),
        all
    );
}
