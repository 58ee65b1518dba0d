//! The calibration windows in the quantized model, and in the float model beside it.

use std::{fs, io};

use fewbit_awq::Scales;
use fewbit_model::{Block, Site};

use crate::stages::States;

/// Hidden states before a block.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Behind the quantized blocks.
    pub(crate) quantized: States,
    /// Behind the float blocks, if mismatch is to be corrected.
    pub(crate) float: Option<States>,
}

impl Streams {
    /// Computes the inputs of a site in both streams, chunk by chunk, and has them looked at as `(quantized, float)`, `(n_tokens, features)`
    /// row-major. Inputs of the float stream are divided by `scales`, as those of the quantized one are in the block itself. `original` is the
    /// block in float.
    pub(crate) fn inputs<E>(
        &mut self,
        block: &Block,
        original: Option<&Block>,
        site: Site,
        scales: Option<&Scales>,
        mut look: impl FnMut(&[f32], Option<&[f32]>) -> Result<(), E>,
    ) -> Result<(), E> {
        for chunk in 0..self.quantized.n_chunks() {
            let seen = self.quantized.input(chunk, block, site);
            let seen = seen.as_slice().expect("standard layout");
            match (&mut self.float, original) {
                (Some(float), Some(original)) => {
                    let meant = float.input(chunk, original, site);
                    let meant = meant.as_slice().expect("standard layout");
                    match scales {
                        Some(scales) => {
                            let mut scaled = meant.to_vec();
                            scales.divide_columns(&mut scaled);
                            look(seen, Some(&scaled))?;
                        }
                        None => look(seen, Some(meant))?,
                    }
                    float.release(chunk, site);
                }
                _ => look(seen, None)?,
            }
            self.quantized.release(chunk, site);
        }
        Ok(())
    }

    /// Moves both streams past a site.
    pub(crate) fn advance(&mut self, block: &Block, original: Option<&Block>, site: Site) {
        self.quantized.advance(block, site);
        if let (Some(float), Some(original)) = (&mut self.float, original) {
            float.advance(original, site);
        }
    }

    /// Fills the states with what [`write`](Self::write) wrote.
    pub(crate) fn read(&mut self, file: &mut fs::File) -> io::Result<()> {
        self.quantized.read(file)?;
        self.float.as_mut().map_or(Ok(()), |float| float.read(file))
    }

    pub(crate) fn write(&self, file: &mut fs::File) -> io::Result<()> {
        self.quantized.write(file)?;
        self.float.as_ref().map_or(Ok(()), |float| float.write(file))
    }

    /// Bytes that [`write`](Self::write) writes.
    pub(crate) fn bytes(&self) -> u64 {
        self.quantized.bytes() + self.float.as_ref().map_or(0, States::bytes)
    }
}
