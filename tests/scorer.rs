//! The runtime's shortcuts for the evaluator against its plain logits, on the demo model and the demo's own items.

use std::ops::ControlFlow;

use fewbit::{
    checkpoint::Checkpoint,
    eval::{
        Logits, Tokenize, from_fn, perplexity_documents,
        tasks::{Accuracy, ChoiceItem, ChoiceScore, Journal, run_batches, score_choices},
    },
    model::{CacheType, Model, Tokenizer},
};

#[path = "../examples/support/scorer.rs"]
#[allow(dead_code, reason = "what the examples share")]
mod scorer;
use scorer::{Bos, Scorer, Text};

fn scores(model: &mut impl Logits, text: &Text<'_>, items: &[ChoiceItem]) -> Vec<ChoiceScore> {
    let go_on = |_, _| ControlFlow::Continue(());
    run_batches(items, &mut Journal::in_memory(), go_on, |number, left| {
        // A short context, so that some items are cut.
        score_choices(model, text, number, left, 200)
    })
    .unwrap()
    .to_vec()
}

#[test]
fn shortcuts_answer_as_plain_logits_do() {
    let folder = tempfile::tempdir().unwrap();
    fewbit_demo::write_model(folder.path()).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let model = Model::load(&checkpoint).unwrap();
    let tokenizer = Tokenizer::load(&checkpoint).unwrap();
    let bos = model.config().bos_token;
    let text = Text { tokenizer: &tokenizer, rule: Bos::Always, bos };
    let item = |e: fewbit_demo::Endings| ChoiceItem {
        context: e.context,
        choices: e.endings.into(),
        gold: e.right,
    };
    let items: Vec<ChoiceItem> = fewbit_demo::endings(7).take(24).map(item).collect();

    let mut plain = from_fn(model.config().vocab_size, |tokens: &[u32]| model.logits(tokens));
    let mut fast = Scorer::new(&model, CacheType::F32);
    let expected = scores(&mut plain, &text, &items);
    for batch_tokens in [0, 500, usize::MAX, Scorer::BATCH_TOKENS] {
        fast = fast.with_batch_tokens(batch_tokens);
        let got = scores(&mut fast, &text, &items);
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(&expected) {
            assert_eq!(got.tokens_cut, expected.tokens_cut);
            for (a, b) in got.log_likelihoods.iter().zip(&expected.log_likelihoods) {
                assert!((a - b).abs() <= 1e-4 * b.abs() + 1e-5, "{a} instead of {b}");
            }
        }
    }
    assert!(expected.iter().any(|score| score.tokens_cut > 0), "nothing was cut");
    let accuracy = Accuracy::of(&expected).unwrap().acc.value;
    assert!(accuracy > 0.5, "the demo model gets {accuracy} of its own items right");

    let texts: Vec<Vec<u32>> = items.iter().map(|i| text.encode(&i.context).unwrap()).collect();
    let expected = perplexity_documents(&mut plain, &texts, 60).unwrap();
    for batch_tokens in [0, 300, 5000] {
        fast = fast.with_batch_tokens(batch_tokens);
        let got = perplexity_documents(&mut fast, &texts, 60).unwrap();
        assert!(
            (got.mean_nll - expected.mean_nll).abs() < 1e-5,
            "{batch_tokens}: {}",
            got.mean_nll
        );
    }

    // A text that grows, and one that shares its beginning.
    let tokens = tokenizer.encode_with_bos(&items[0].context, bos).unwrap();
    for end in [5, 6, 7, 20, 12] {
        let mut part = tokens[..end].to_vec();
        part[end - 1] ^= u32::from(end == 12);
        let (a, b) = (fast.next_logits(&part).unwrap(), plain.next_logits(&part).unwrap());
        let worst = fewbit_testkit::max_abs_diff(&a, &b).0;
        assert!(worst < 1e-3, "logits after {end} tokens differ by {worst}");
    }
}
