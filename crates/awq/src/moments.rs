//! How the inputs of a layer go together within each group.

use fewbit_format::Granularity;
use fewbit_kernels::{Level, vectorize};
use rayon::prelude::*;

use crate::{AwqError, checks, lanes::LANES};

/// The widest square of products that is kept: groups wider than this are several squares.
pub(crate) const TILE: usize = 128;
/// Tokens whose products are summed in f32 before they join the f64 sums.
const RUN: usize = 128;

/// The mean of `x·xᵀ` over calibration tokens, of inputs in the same group only: what the rounding errors of a group do to the output of the layer.
///
/// Groups wider than 128 are cut into tiles of 128, between which products count as zero.
#[derive(Clone, Debug)]
pub struct GroupMoments {
    in_features: usize,
    group_size: usize,
    n_tokens: usize,
    tiles: Vec<Tile>,
}

/// Products of the features `start..start + width`, rows padded to whole lanes.
#[derive(Clone, Debug)]
struct Tile {
    start: usize,
    width: usize,
    sums: Vec<f64>,
}

impl GroupMoments {
    /// No tokens yet.
    pub fn new(in_features: usize, granularity: Granularity) -> Self {
        let group_size = granularity.group_size(in_features);
        let groups = (0..in_features).step_by(group_size);
        let tiles = groups.flat_map(|from| {
            let to = (from + group_size).min(in_features);
            (from..to).step_by(TILE).map(move |start| (start, TILE.min(to - start)))
        });
        let tiles = tiles.map(|(start, width)| {
            let sums = vec![0.0; width * width.next_multiple_of(LANES)];
            Tile { start, width, sums }
        });
        Self { in_features, group_size, n_tokens: 0, tiles: tiles.collect() }
    }

    /// Adds tokens: `x` is `(n_tokens, in_features)` row-major.
    ///
    /// # Errors
    /// If `x` is not whole tokens, or an activation is NaN or infinite; nothing is added then.
    pub fn add(&mut self, x: &[f32]) -> Result<(), AwqError> {
        let n = self.in_features;
        self.n_tokens += checks::activations(x, n)?;
        let level = Level::detect();
        self.tiles.par_iter_mut().for_each(|tile| {
            vectorize(
                level,
                #[inline(always)]
                || x.chunks(RUN * n.max(1)).for_each(|x| tile.add(x, n)),
            );
        });
        Ok(())
    }

    /// Tokens added so far.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Width.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Columns of a group.
    pub fn group_size(&self) -> usize {
        self.group_size
    }

    /// Mean of x² of each input; zeros before any token.
    pub fn diagonal(&self) -> Vec<f32> {
        let mean = |sum: f64| (sum / self.n_tokens.max(1) as f64) as f32;
        let of_tile = |tile: &Tile| -> Vec<f32> {
            (0..tile.width).map(|i| mean(tile.sums[i * tile.stride() + i])).collect()
        };
        self.tiles.iter().flat_map(of_tile).collect()
    }

    /// Bytes that these hold for a width.
    pub fn bytes(in_features: usize, granularity: Granularity) -> usize {
        let tile = granularity.group_size(in_features).min(TILE).next_multiple_of(LANES);
        8 * in_features.next_multiple_of(tile) * tile
    }

    /// The means, tile by tile in the order of columns: first column, width, and `(width, width padded to lanes)` values.
    pub(crate) fn means(&self) -> Vec<(usize, usize, Vec<f32>)> {
        let factor = 1.0 / self.n_tokens.max(1) as f64;
        let of_tile = |tile: &Tile| {
            (tile.start, tile.width, tile.sums.iter().map(|s| (s * factor) as f32).collect())
        };
        self.tiles.iter().map(of_tile).collect()
    }
}

impl Tile {
    fn stride(&self) -> usize {
        self.width.next_multiple_of(LANES)
    }

    /// Adds the products of a few tokens, summed in f32 first.
    #[inline(always)]
    fn add(&mut self, x: &[f32], n: usize) {
        let (stride, width) = (self.stride(), self.width);
        // The tile's features of each token, padded.
        let mut packed = vec![[0.0f32; LANES]; x.len() / n * stride / LANES];
        for (packed, x) in packed.as_flattened_mut().chunks_mut(stride).zip(x.chunks_exact(n)) {
            packed[..width].copy_from_slice(&x[self.start..][..width]);
        }
        let per_token = stride / LANES;
        for (i, sums) in self.sums.chunks_exact_mut(stride).enumerate() {
            for (strip, sums) in sums.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let mut products = [0.0f32; LANES];
                for token in packed.chunks_exact(per_token) {
                    let a = token[i / LANES][i % LANES];
                    for lane in 0..LANES {
                        products[lane] += a * token[strip][lane];
                    }
                }
                for lane in 0..LANES {
                    sums[lane] += f64::from(products[lane]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fewbit_testkit::Random;

    #[test]
    fn products_within_groups_equal_the_definition() {
        for (n, granularity) in [
            (70, Granularity::group(32)),
            (300, Granularity::Channel),
            (16, Granularity::group(16)),
            (5, Granularity::Channel),
        ] {
            let mut random = Random::new(n as u64);
            let x = random.normals(333 * n);
            let mut moments = GroupMoments::new(n, granularity);
            moments.add(&x[..100 * n]).unwrap();
            moments.add(&x[100 * n..]).unwrap();
            let mut seen = 0;
            for (start, width, means) in moments.means() {
                assert_eq!(start, seen);
                seen += width;
                let stride = width.next_multiple_of(LANES);
                for i in 0..width {
                    for j in 0..width {
                        let exact: f64 = x
                            .chunks(n)
                            .map(|x| f64::from(x[start + i]) * f64::from(x[start + j]))
                            .sum::<f64>()
                            / 333.0;
                        let got = f64::from(means[i * stride + j]);
                        assert!((got - exact).abs() < 1e-5, "{i} {j}: {got} {exact}");
                        if i == j {
                            assert_eq!(moments.diagonal()[start + i], means[i * stride + j]);
                        }
                    }
                }
            }
            assert_eq!(seen, n);
        }
    }
}
