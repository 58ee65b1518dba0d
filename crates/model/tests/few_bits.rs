//! Models of few bits: directly from their packed form, with inputs in floats and in 8 bits, keys and values in every type.

use fewbit_checkpoint::{Checkpoint, Dtype, Weight};
use fewbit_format::{
    Bits, BlockType, Codebook, CodebookScheme, Float4, Float8, Float8Scheme, Granularity,
    IntScheme, MatrixShape, Quantized, ScaleTile, ScaleType, Scheme, Symmetry,
};
use fewbit_kernels::IntMatrix;
use fewbit_model::{
    Activations, Block, CacheType, Ends, Linear, Matrix, Model, ModelConfig, Role, ndarray::Array2,
};
use fewbit_testkit::{Random, shared_or_skip};

fn config() -> ModelConfig {
    let json = serde_json::json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 300,
        "tie_word_embeddings": true,
    });
    ModelConfig::parse(json.as_object().unwrap()).unwrap()
}

/// Integers, blocks and floats of every kind.
fn schemes() -> Vec<Scheme> {
    let mut schemes: Vec<Scheme> = BlockType::ALL.map(Scheme::Block).to_vec();
    for bits in Bits::ALL {
        for (symmetry, granularity) in [
            (Symmetry::Symmetric, Granularity::Channel),
            (Symmetry::Affine, Granularity::group(128)),
            (Symmetry::Symmetric, Granularity::group(32)),
            (Symmetry::Affine, Granularity::group(24)),
        ] {
            let scale_type = ScaleType::F16;
            schemes.push(Scheme::Int(IntScheme { bits, symmetry, granularity, scale_type }));
        }
    }
    for codebook in Codebook::ALL {
        schemes.push(Scheme::Codebook(CodebookScheme::new(codebook, 64, false, ScaleType::F16)));
    }
    schemes.push(Scheme::Codebook(CodebookScheme::new(Codebook::Nf4, 64, true, ScaleType::F16)));
    for element in [Float8::E4M3, Float8::E5M2] {
        let tile = ScaleTile::block(128, 128);
        schemes.push(Scheme::Float8(Float8Scheme { element, tile, scale_type: ScaleType::F32 }));
    }
    schemes.extend(Float4::ALL.map(Scheme::Float4));
    schemes.push(Scheme::LlmInt8);
    schemes
}

/// A model whose layers are `linear(number, shape)`; the head is the embedding.
fn model(config: &ModelConfig, mut linear: impl FnMut(u64, MatrixShape) -> Linear) -> Model {
    let gain = vec![1.0; config.hidden_size];
    let embedding = linear(0, MatrixShape::new(config.vocab_size, config.hidden_size));
    let ends = Ends::from_parts(config, embedding, None, |_, _| gain.clone());
    let mut number = 0;
    let blocks = (0..config.n_layers).map(|layer| {
        let linears = config.roles().map(|role| {
            number += 1;
            linear(number, config.shape(role))
        });
        Block::from_parts(config, layer, linears.collect(), |_, _| gain.clone())
    });
    let blocks = blocks.collect();
    Model::from_parts(config.clone(), ends, blocks)
}

/// Random weights on a grid.
fn random(number: u64, shape: MatrixShape, scheme: Scheme) -> Quantized {
    let mut weight = Random::new(number).normals(shape.len());
    weight.iter_mut().for_each(|w| *w /= 16.0);
    Quantized::round_to_nearest(&weight, shape, scheme).unwrap()
}

fn random_model(config: &ModelConfig, scheme: Scheme, activations: Activations) -> Model {
    model(config, |number, shape| {
        let weight = Weight::Quant(random(number, shape, scheme));
        Linear::with_activations(weight, None, activations)
    })
}

fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 37 + 11) % 300).collect()
}

/// Root of the mean square of the difference, in units of that of `b`.
fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (difference / b.iter().map(|&b| square(b)).sum::<f64>()).sqrt()
}

#[test]
fn float_inputs_give_the_product_of_the_decoded_weights() {
    // More rows than are decoded at a time, and rows that are no multiple of anything.
    for (shape, n_tokens) in [(MatrixShape::new(2100, 256), 1), (MatrixShape::new(2100, 256), 3)] {
        let x = Array2::from_shape_vec(
            (n_tokens, shape.in_features),
            Random::new(7).normals(n_tokens * shape.in_features),
        )
        .unwrap();
        for scheme in schemes() {
            let matrix = random(1, shape, scheme);
            let data = matrix.dequantize();
            let decoded = Weight::Float { shape, dtype: Dtype::F32, data };
            let layer = Linear::from_weight(Weight::Quant(matrix), None);
            let (got, expected) = (layer.forward(x.view()), Linear::from_weight(decoded, None));
            let expected = expected.forward(x.view());
            match layer.matrix() {
                Matrix::Stored(_) => assert_eq!(got, expected, "{scheme}"),
                Matrix::Packed(_) => {
                    let error =
                        relative_error(got.as_slice().unwrap(), expected.as_slice().unwrap());
                    assert!(error < 1e-6, "{scheme}: {error:e}");
                }
                other => panic!("{scheme} became {other:?}"),
            }
        }
    }
}

/// Each input moves by at most half of the largest / 127.
#[test]
fn inputs_in_8_bits_cost_what_rounding_can() {
    let shape = MatrixShape::new(70, 512);
    for n_tokens in [1, 2, 13] {
        let x = Random::new(3).normals(n_tokens * shape.in_features);
        let x = Array2::from_shape_vec((n_tokens, shape.in_features), x).unwrap();
        for scheme in schemes() {
            let matrix = random(2, shape, scheme);
            let weights = matrix.dequantize();
            let weight = || Weight::Quant(matrix.clone());
            let float = Linear::from_weight(weight(), None).forward(x.view());
            let layer = Linear::with_activations(weight(), None, Activations::Int8);
            if matches!(layer.matrix(), Matrix::LlmInt8(_)) {
                // The large inputs stay floats, the others are rounded under one scale.
                let got = layer.forward(x.view());
                let error = relative_error(got.as_slice().unwrap(), float.as_slice().unwrap());
                assert!(0.0 < error && error < 0.02, "{error}");
                continue;
            }
            if !matches!(layer.matrix(), Matrix::Int(_)) {
                assert!(!IntMatrix::supports(&scheme), "{scheme}");
                assert_eq!(layer.forward(x.view()), float, "{scheme}");
                continue;
            }
            let got = layer.forward(x.view());
            for ((i, j), got) in got.indexed_iter() {
                let largest = x.row(i).iter().fold(0f32, |most, x| most.max(x.abs()));
                let row = &weights[j * shape.in_features..][..shape.in_features];
                let magnitude: f32 = row.iter().map(|w| w.abs()).sum();
                // The products' own roundings are a few hundred units in the last place of what is summed.
                let bound = magnitude * largest * (0.5 / 127.0 + 1e-4);
                let error = (got - float[[i, j]]).abs();
                assert!(error <= bound, "{scheme}: {error} at {i}, {j}; bound {bound}");
            }
        }
    }
}

#[test]
fn models_run_from_their_packed_form_within_rounding_of_the_inputs() {
    let config = config();
    let tokens = tokens(40);
    let n_weights: usize = config.roles().map(|role| config.shape(role).len()).sum::<usize>()
        * config.n_layers
        + config.vocab_size * config.hidden_size;
    let mut n_int = 0;
    for scheme in schemes() {
        let float = random_model(&config, scheme, Activations::Float);
        let int8 = random_model(&config, scheme, Activations::Int8);
        let expected = float.logits(&tokens).unwrap();
        let got = int8.logits(&tokens).unwrap();
        let error = relative_error(got.as_slice().unwrap(), expected.as_slice().unwrap());
        let matrix = int8.blocks()[0].linear(Role::Down).matrix();
        let is_int = matches!(matrix, Matrix::Int(_) | Matrix::LlmInt8(_));
        n_int += usize::from(is_int);
        match is_int {
            // Inputs are rounded by about 0.6 % of their spread, a dozen times on the way to a logit, and grids with minima have more to cancel.
            true => assert!(0.0 < error && error < 0.06, "{scheme}: {error}"),
            false => assert_eq!(error, 0.0, "{scheme}"),
        }

        // Rows are padded to 16, 300 of them to 304; in floats, scales are, and 3-bit codes lie ten in 32 bits. Groups that are no multiple of 16 or 32 columns
        // are padded to one.
        let shape = MatrixShape::new(128, 256);
        let file_bytes = scheme.bits_per_weight(shape).unwrap() * n_weights as f64 / 8.0;
        let ragged = matches!(scheme, Scheme::Int(IntScheme { granularity: Granularity::Group(g), .. }) if g.get() == 24);
        for (model, most) in [(&int8, if is_int { 1.09 } else { 1.5 }), (&float, 1.5)] {
            let ratio = model.bytes() as f64 / file_bytes;
            assert!(ratio < most || ragged, "{scheme}: {ratio:.3} of the file's bytes");
        }

        // One by one, as generation goes.
        let mut session = int8.session();
        let mut last = vec![];
        for token in &tokens {
            last = session.feed(&[*token]).unwrap().to_vec();
        }
        let at_once = got.row(tokens.len() - 1).to_vec();
        let error = relative_error(&last, &at_once);
        assert!(error < 0.06, "{scheme}: {error} between one by one and at once");
    }
    assert!(n_int > 30, "only {n_int} grids have integer products");
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let config = config();
    for (scheme, activations, cache) in [
        (Scheme::Block(BlockType::Q4K), Activations::Int8, CacheType::Q8),
        (Scheme::Block(BlockType::Q6K), Activations::Float, CacheType::F32),
        (Scheme::LlmInt8, Activations::Int8, CacheType::Q4),
        (Scheme::Float4(Float4::Nvfp4), Activations::Int8, CacheType::F16),
    ] {
        let model = random_model(&config, scheme, activations);
        let run = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| {
                let mut session = model.session_with(cache);
                let prompt = session.feed_all(&tokens(90)).unwrap();
                let next = session.feed(&[5]).unwrap().to_vec();
                (prompt, next)
            })
        };
        assert_eq!(run(1), run(2), "{scheme}");
    }
}

#[test]
fn keys_and_values_in_few_bits_change_little() {
    let config = config();
    let model = random_model(&config, Scheme::Block(BlockType::Q8_0), Activations::Float);
    let tokens = tokens(70);
    let expected = model.logits(&tokens).unwrap();
    let mut bytes = usize::MAX;
    for (cache, most) in [
        (CacheType::F32, 1e-6),
        (CacheType::F16, 1e-3),
        (CacheType::Q8, 1.5e-2),
        (CacheType::Q4, 0.25),
    ] {
        let mut session = model.session_with(cache);
        let mut got = session.feed_all(&tokens[..60]).unwrap().into_raw_vec_and_offset().0;
        for token in &tokens[60..] {
            got.extend(session.feed(&[*token]).unwrap());
        }
        let error = relative_error(&got, expected.as_slice().unwrap());
        assert!(error < most, "{cache:?}: {error}");
        let per_value =
            [4.0, 2.0, 1.0625, 0.5625][CacheType::ALL.iter().position(|c| *c == cache).unwrap()];
        // Keys and values of two layers with two heads of 64 dimensions.
        assert_eq!(session.cache_bytes() as f64, 70.0 * 2.0 * 2.0 * 128.0 * per_value);
        assert!(session.cache_bytes() < bytes);
        bytes = session.cache_bytes();
        assert_eq!(session.cache_type(), cache);
    }
}

/// What a trained model loses, in nats per token.
#[test]
fn trained_models_lose_little_by_inputs_in_8_bits() {
    let Some(shared) = shared_or_skip("trained_models_lose_little_by_inputs_in_8_bits") else {
        return;
    };
    for name in ["llama-4m", "TinyStories-656K"] {
        let checkpoint = Checkpoint::open(&shared.join("models").join(name)).unwrap();
        let original = Model::load(&checkpoint).unwrap();
        let tokens: Vec<u32> = (0..200).map(|i| (i * i * 7 + i) % 2000).collect();
        for (scheme, most) in
            [(Scheme::Block(BlockType::Q8_0), 2e-3), (Scheme::Block(BlockType::Q4_0), 4e-3)]
        {
            let logits = [Activations::Float, Activations::Int8].map(|activations| {
                let mut model = original.clone();
                for block in model.blocks_mut() {
                    for role in original.config().roles() {
                        let weight = checkpoint.weight(block.module(role)).unwrap();
                        let Weight::Float { shape, data, .. } = weight else { panic!("float") };
                        let matrix = Quantized::round_to_nearest(&data, shape, scheme).unwrap();
                        let weight = Weight::Quant(matrix);
                        let linear = Linear::with_activations(weight, None, activations);
                        block.set_linear(role, linear);
                    }
                }
                model.logits(&tokens).unwrap()
            });
            let kl: f64 = logits[0]
                .rows()
                .into_iter()
                .zip(logits[1].rows())
                .map(|(p, q)| {
                    let log_sum =
                        |x: &[f32]| x.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
                    let (p, q) = (p.as_slice().unwrap(), q.as_slice().unwrap());
                    let (p_sum, q_sum) = (log_sum(p), log_sum(q));
                    p.iter()
                        .zip(q)
                        .map(|(&p, &q)| {
                            let (p, q) = (f64::from(p) - p_sum, f64::from(q) - q_sum);
                            p.exp() * (p - q)
                        })
                        .sum::<f64>()
                })
                .sum::<f64>()
                / tokens.len() as f64;
            assert!(kl < most, "{name}, {scheme}: {kl} nats");
        }
    }
}
