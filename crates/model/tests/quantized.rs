//! Blocks with few-bit layers against blocks with the same weights as floats.

mod common;

use common::{assert_close, testdata};
use fewbit_checkpoint::{Checkpoint, Dtype, Weight};
use fewbit_format::{Bits, Granularity, IntScheme, QuantMatrix, ScaleType, Symmetry};
use fewbit_model::{Block, Linear, Model, ModelConfig, Role, Site};
use fewbit_testkit::Random;
use ndarray::Array2;

/// The block with every layer rounded to a grid: as codes, and as the floats they stand for.
fn rounded(
    block: &Block,
    config: &ModelConfig,
    checkpoint: &Checkpoint,
    scheme: IntScheme,
) -> (Block, Block) {
    let (mut codes, mut floats) = (block.clone(), block.clone());
    for role in block.roles() {
        let module = block.module(role);
        let (layer, shape) = (block.layer(), config.shape(role));
        let data = config.weight_f32(checkpoint, layer, role).unwrap();
        let bias = checkpoint.bias(module).unwrap();
        let matrix = QuantMatrix::round_to_nearest(&data, shape, scheme).unwrap();
        let data = matrix.dequantize();
        let float = Weight::Float { shape, dtype: Dtype::F32, data };
        floats.set_linear(role, Linear::from_weight(float, bias.clone()));
        codes.set_linear(role, Linear::from_weight(Weight::Quant(matrix.into()), bias));
    }
    (codes, floats)
}

#[test]
fn a_quantized_block_equals_the_block_of_its_dequantized_weights() {
    for case in ["biases", "mha", "gemma3", "gpt2-base", "qwen3"] {
        let checkpoint = Checkpoint::open(&testdata().join(case)).unwrap();
        let config = ModelConfig::of(&checkpoint).unwrap();
        let block = Block::load(&checkpoint, &config, 1).unwrap();
        for bits in Bits::ALL {
            for (symmetry, granularity) in [
                (Symmetry::Symmetric, Granularity::group(16)),
                (Symmetry::Affine, Granularity::group(20)),
                (Symmetry::Affine, Granularity::Channel),
            ] {
                let scheme = IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F16 };
                let (codes, floats) = rounded(&block, &config, &checkpoint, scheme);
                // Matrices narrower than a word of the packed form are padded.
                assert!(config.hidden_size < 32 || codes.bytes() < floats.bytes());
                for seq_lens in [&[1usize][..], &[3, 30, 0, 7]] {
                    let n: usize = seq_lens.iter().sum();
                    let h = Random::new(n as u64).normals(n * config.hidden_size);
                    let h = Array2::from_shape_vec((n, config.hidden_size), h).unwrap();
                    let (mut a, mut b) = (h.clone(), h);
                    codes.forward(&mut a, seq_lens, |_, _| ());
                    floats.forward(&mut b, seq_lens, |_, _| ());
                    let (a, b) = (a.as_slice().unwrap(), b.as_slice().unwrap());
                    assert_close(a, b, 2e-6, &format!("{case} {scheme:?} {seq_lens:?}"));
                }
            }
        }
    }
}

#[test]
fn the_stages_are_the_whole_and_taps_see_the_inputs_of_the_layers() {
    for case in ["biases", "mistral-window", "qwen3", "gemma3", "gpt2", "exaone"] {
        let checkpoint = Checkpoint::open(&testdata().join(case)).unwrap();
        let model = Model::load(&checkpoint).unwrap();
        let seq_lens = [5, 19];
        let mut h = model.ends().embed(&(10..34).collect::<Vec<u32>>()).unwrap();
        for block in model.blocks() {
            let mut tapped = vec![];
            let mut whole = h.clone();
            block.forward(&mut whole, &seq_lens, |site, x| tapped.push((site, x.to_owned())));

            let sites: Vec<Site> = tapped.iter().map(|(site, _)| *site).collect();
            assert!(sites.iter().eq(block.groups().iter().map(|(site, _)| site)), "{case}");
            for (i, (site, roles)) in block.groups().iter().enumerate() {
                for &role in *roles {
                    assert_eq!(role.site(), *site);
                    assert_eq!(tapped[i].1.ncols(), block.linear(role).shape().in_features);
                }
            }
            let x = block.attention_input(h.view());
            let y = block.attention_mix(x.view(), &seq_lens);
            block.attention_output(y.view(), &mut h);
            let x2 = block.mlp_input(h.view());
            let y2 = block.mlp_mix(x2.view());
            block.mlp_output(y2.view(), &mut h);
            assert_eq!(h, whole, "{case}");
            assert_eq!(tapped.into_iter().map(|(_, x)| x).collect::<Vec<_>>(), [x, y, x2, y2]);
        }
    }
}

#[test]
#[should_panic(expected = "a layer keeps its shape")]
fn a_layer_of_another_shape_is_not_taken() {
    let checkpoint = Checkpoint::open(&testdata().join("tied")).unwrap();
    let mut model = Model::load(&checkpoint).unwrap();
    let other = model.blocks()[0].linear(Role::Down).clone();
    model.blocks_mut()[0].set_linear(Role::Query, other);
}
