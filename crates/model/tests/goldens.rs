//! Logits against transformers, for every storage of weights and every setting of the architecture.

mod common;

use common::{Golden, assert_close, cases, testdata};
use fewbit_checkpoint::Checkpoint;
use fewbit_model::{
    Architecture, CacheType, Choice, Model, ModelConfig, ModelError, Stop, StopReason, generate,
};
use fewbit_testkit::shared_or_skip;

/// Both sides compute in f32; a few dozen roundings of the largest logit is what the order of summation changes.
const TOLERANCE: f32 = 1e-5;

#[test]
fn tiny_checkpoints_have_their_golden_logits() {
    for case in cases() {
        let folder = testdata().join(&case);
        let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
        let golden = Golden::open(&folder.join("golden.safetensors"));
        let tokens = golden.tokens("tokens");
        let expected = golden.floats("logits");
        let at_once = model.logits(&tokens).unwrap();
        assert_close(at_once.as_slice().unwrap(), &expected, TOLERANCE, &case);

        let mut session = model.session();
        let vocab_size = model.config().vocab_size;
        for (token, expected) in tokens.iter().zip(expected.chunks(vocab_size)) {
            let got = session.feed(&[*token]).unwrap().to_vec();
            assert_close(&got, expected, TOLERANCE, &format!("{case}, token {}", session.len()));
        }
        assert_eq!(session.len(), tokens.len());
        assert_eq!(golden.has("inv_freq"), case.starts_with("rope-"), "{case}");
    }
}

#[test]
fn every_architecture_has_its_goldens() {
    let mut left: Vec<&str> = Architecture::types().collect();
    for case in cases() {
        let checkpoint = Checkpoint::open(&testdata().join(&case)).unwrap();
        let config = ModelConfig::of(&checkpoint).unwrap();
        left.retain(|model_type| *model_type != config.model_type());
        let buffers = |name: &str| name.ends_with(".attn.bias") || name.ends_with("masked_bias");
        let mut found: Vec<_> =
            checkpoint.tensors().map(|t| (t.name.clone(), t.shape.clone())).collect();
        found.retain(|(name, _)| !buffers(name));
        let mut expected = config.tensors();
        expected.sort();
        if !case.starts_with("tied-") {
            assert_eq!(found, expected, "{case}");
        }
        // Texts reach further than windows.
        let n_tokens = Golden::open(&testdata().join(&case).join("golden.safetensors"));
        let n_tokens = n_tokens.tokens("tokens").len();
        assert_eq!(case.contains("window") || case.contains("gemma"), config.window.is_some());
        assert!(config.window.is_none_or(|window| window.width < n_tokens / 2), "{case}");
    }
    assert!(left.is_empty(), "{left:?}");
}

/// Token by token with keys and values in few bits, and all at once in floats: off by what rounding costs in these models, whose attention is sharper than
/// that of trained ones. Half precision costs next to nothing; a wrong row or a window that is off by one costs as much as the largest logit.
#[test]
fn every_cache_type_decodes_every_architecture() {
    for case in cases() {
        let folder = testdata().join(&case);
        let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
        let golden = Golden::open(&folder.join("golden.safetensors"));
        let (tokens, expected) = (golden.tokens("tokens"), golden.floats("logits"));
        for (cache, mean, worst) in [
            (CacheType::F32, 1e-6, 1e-5),
            (CacheType::F16, 1e-3, 1e-2),
            (CacheType::Q8, 8e-3, 8e-2),
            (CacheType::Q4, 0.12, 1.0),
        ] {
            let mut session = model.session_with(cache);
            let got: Vec<f32> =
                tokens.iter().flat_map(|&t| session.feed(&[t]).unwrap().to_vec()).collect();
            let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
            let off = got.iter().zip(&expected).map(|(a, b)| (a - b).abs() / largest);
            let (sum, most) = off.fold((0.0, 0f32), |(sum, most), x| (sum + x, most.max(x)));
            let average = sum / expected.len() as f32;
            assert!(average < mean && most < worst, "{case} {cache:?}: {average} {most}");
        }
        // Pieces as long as, shorter and longer than the window, over its edge.
        let mut session = model.session();
        let mut first = 0;
        for piece in [7, 11, 1, 3] {
            let logits = session.feed_all(&tokens[first..first + piece]).unwrap();
            let n = model.config().vocab_size;
            let expected = &expected[first * n..(first + piece) * n];
            assert_close(logits.as_slice().unwrap(), expected, TOLERANCE, &case);
            first += piece;
        }
    }
}

#[test]
fn learned_positions_end() {
    let model = Model::load(&Checkpoint::open(&testdata().join("gpt2")).unwrap()).unwrap();
    let text = vec![5; 65];
    assert!(model.logits(&text[..64]).is_ok());
    let too_long = |error| matches!(error, ModelError::TooLong { tokens: 65, positions: 64 });
    assert!(too_long(model.logits(&text).unwrap_err()));
    let mut session = model.session();
    session.feed(&text[..64]).unwrap();
    assert!(too_long(session.feed(&text[..1]).unwrap_err()));
    assert_eq!(session.len(), 64);
    // Each text of a batch has positions of its own.
    let batch = model.logits_of_batch(&[&text[..60], &text[..20]]).unwrap();
    let alone = model.logits(&text[..20]).unwrap();
    assert_close(&batch.as_slice().unwrap()[60 * 96..], alone.as_slice().unwrap(), 1e-6, "second");
}

#[test]
fn a_missing_tensor_is_named_with_the_architecture() {
    let folder = tempfile::tempdir().unwrap();
    let from = testdata().join("tied");
    std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(from.join("config.json")).unwrap();
    let config = config.replace("\"llama\"", "\"qwen3\"").replace("Llama", "Qwen3");
    let config = config.replacen('{', "{\"head_dim\": 8,", 1);
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let error = Model::load(&Checkpoint::open(folder.path()).unwrap()).unwrap_err().to_string();
    assert_eq!(
        error,
        "there is no tensor model.layers.0.self_attn.q_norm.weight, which a model of type qwen3 has"
    );
}

#[test]
fn feeding_in_pieces_batching_and_going_back_change_nothing() {
    let folder = testdata().join("rope-llama3");
    let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
    let tokens: Vec<u32> = (0..50).map(|i| (i * 31 + 7) % 96).collect();
    let at_once = model.logits(&tokens).unwrap();
    let expected = at_once.as_slice().unwrap();

    let mut session = model.session();
    let mut pieces = vec![];
    for piece in [1, 2, 0, 5, 17, 25] {
        let from = session.len();
        let logits = session.feed_all(&tokens[from..from + piece]).unwrap();
        pieces.extend_from_slice(logits.as_slice().unwrap());
    }
    assert_close(&pieces, expected, 1e-6, "pieces");

    session.truncate(20);
    assert_eq!(session.len(), 20);
    let again = session.feed_all(&tokens[20..]).unwrap();
    assert_close(again.as_slice().unwrap(), &expected[20 * 96..], 1e-6, "after going back");
    assert!(session.cache_bytes() >= 2 * 2 * 50 * 2 * 16 * 4);

    let batch = model.logits_of_batch(&[&tokens[..13], &[], &tokens, &tokens[..1]]).unwrap();
    let batch = batch.as_slice().unwrap();
    assert_close(&batch[..13 * 96], &expected[..13 * 96], 1e-6, "first of the batch");
    assert_close(&batch[13 * 96..63 * 96], expected, 1e-6, "third of the batch");
    assert_close(&batch[63 * 96..], &expected[..96], 1e-6, "last of the batch");
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let folder = testdata().join("head-dim");
    let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
    let tokens: Vec<u32> = (0..300).map(|i| (i * 17 + 5) % 96).collect();
    let with = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        pool.install(|| model.logits_of_batch(&[&tokens, &tokens[..100]]).unwrap())
    };
    let one = with(1);
    assert_eq!(one, with(2));
    assert_eq!(one, with(5));
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let folder = testdata().join("tied");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let model = Model::load(&checkpoint).unwrap();
    let error = model.logits(&[1, 2, 96]).unwrap_err();
    assert!(matches!(error, ModelError::Token { token: 96, position: 2, vocab_size: 96 }));
    let mut session = model.session();
    session.feed(&[1, 2]).unwrap();
    assert!(matches!(session.feed(&[]), Err(ModelError::NoTokens)));
    assert!(session.feed(&[3, 1000]).is_err());
    assert_eq!(session.len(), 2);

    let mut config = model.config().clone();
    config.intermediate_size = 47;
    let error = fewbit_model::Block::load(&checkpoint, &config, 1).unwrap_err().to_string();
    assert_eq!(
        error,
        "model.layers.1.mlp.gate_proj.weight has shape [48, 32], but the configuration makes it [47, 32]"
    );
    let error = fewbit_model::Block::load(&checkpoint, &config, 2).unwrap_err().to_string();
    assert_eq!(error, "layer 2 of a model with 2 layers");
    let mut config = model.config().clone();
    config.mlp_bias = true;
    let error = fewbit_model::Block::load(&checkpoint, &config, 0).unwrap_err().to_string();
    assert!(error.contains("model.layers.0.mlp.gate_proj.bias"), "{error}");
}

#[test]
fn shared_models_have_their_golden_logits() {
    let Some(shared) = shared_or_skip("shared_models_have_their_golden_logits") else { return };
    for name in ["stories260K", "TinyStories-656K", "llama-4m"] {
        let checkpoint = Checkpoint::open(&shared.join("models").join(name)).unwrap();
        let model = Model::load(&checkpoint).unwrap();
        let golden = Golden::open(&testdata().join(format!("shared-{name}.safetensors")));
        let tokens = golden.tokens("tokens");
        let logits = model.logits(&tokens).unwrap();
        let rows = golden.tokens("positions");
        let at: Vec<f32> = rows.iter().flat_map(|&row| logits.row(row as usize).to_vec()).collect();
        assert_close(&at, &golden.floats("logits"), TOLERANCE, name);

        let nll: Vec<f32> = tokens[1..]
            .iter()
            .zip(logits.rows())
            .map(|(&next, row)| {
                let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                (sum.ln() - f64::from(row[next as usize])) as f32
            })
            .collect();
        assert_close(&nll, &golden.floats("nll"), 1e-5, name);

        let margins = golden.floats("greedy_margin");
        assert!(margins.iter().all(|&margin| margin > 1e-3), "{name}: a tie would prove nothing");
        let stop = Stop { max_tokens: 64, end_tokens: vec![] };
        let mut seen = vec![];
        let (text, reason) = generate(
            &mut model.session(),
            &golden.tokens("prompt"),
            &Choice::Greedy,
            &stop,
            |token| {
                seen.push(token);
                true
            },
        )
        .unwrap();
        assert_eq!(text, golden.tokens("greedy"), "{name}");
        assert_eq!((seen, reason), (text, StopReason::MaxTokens), "{name}");
    }
}

#[test]
fn generation_stops_where_it_should() {
    let folder = testdata().join("tied");
    let model = Model::load(&Checkpoint::open(&folder).unwrap()).unwrap();
    let run = |stop: &Stop, limit: usize| {
        let mut n = 0;
        let on_token = |_| {
            n += 1;
            n < limit
        };
        generate(&mut model.session(), &[1, 5, 9], &Choice::Greedy, stop, on_token).unwrap()
    };
    let all = run(&Stop { max_tokens: 12, end_tokens: vec![] }, 100).0;
    assert_eq!(all.len(), 12);
    assert_eq!(run(&Stop { max_tokens: 12, end_tokens: vec![] }, 4).0, all[..4]);
    let last = *all.last().unwrap();
    let first = all.iter().position(|&t| t == last).unwrap();
    let stop = Stop { max_tokens: 12, end_tokens: vec![95, last] };
    let expected = (all[..first].to_vec(), StopReason::EndToken(last));
    assert_eq!(run(&stop, 100), expected);
    assert!(run(&Stop { max_tokens: 0, end_tokens: vec![] }, 9).0.is_empty());
}

#[test]
fn end_tokens_of_the_generation_settings_win() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(testdata().join("tied")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let model = Model::load(&checkpoint).unwrap();
    let read = || fewbit_model::end_tokens(&checkpoint, model.config());
    assert_eq!(read().unwrap(), [2]);
    let file = folder.path().join("generation_config.json");
    for (text, expected) in [
        (r#"{"eos_token_id": [7, 8]}"#, vec![7, 8]),
        (r#"{"eos_token_id": 9}"#, vec![9]),
        (r#"{"eos_token_id": null}"#, vec![2]),
        ("{}", vec![2]),
    ] {
        std::fs::write(&file, text).unwrap();
        assert_eq!(read().unwrap(), expected);
    }
    for text in ["[", "3", r#"{"eos_token_id": "x"}"#] {
        std::fs::write(&file, text).unwrap();
        assert!(read().unwrap_err().to_string().contains("generation_config.json"));
    }
}
