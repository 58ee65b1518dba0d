//! The calibration windows in the quantized model, and in the float model beside it.

use std::{fs, io};

use fewbit_gptq::{GptqError, Hessian, Mismatch};
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

/// What is known of a site's inputs.
pub(crate) struct Statistics {
    pub(crate) hessian: Hessian,
    pub(crate) mismatch: Option<Mismatch>,
}

impl Streams {
    /// Computes the inputs of a site in both streams, and their statistics if their width is `wanted`. `original` is the block in
    /// float.
    pub(crate) fn inputs(
        &mut self,
        block: &Block,
        original: Option<&Block>,
        site: Site,
        wanted: Option<usize>,
    ) -> Result<Option<Statistics>, GptqError> {
        // Before the first block rounds anything both streams are the same, and then there is nothing to correct.
        let mut statistics = wanted.map(|in_features| Statistics {
            hessian: Hessian::new(in_features),
            mismatch: self.float.is_some().then(|| Mismatch::new(in_features)),
        });
        for chunk in 0..self.quantized.n_chunks() {
            let seen = self.quantized.input(chunk, block, site);
            let seen = seen.as_slice().expect("standard layout");
            if let Some(statistics) = &mut statistics {
                statistics.hessian.add(seen)?;
            }
            if let (Some(float), Some(original)) = (&mut self.float, original) {
                let meant = float.input(chunk, original, site);
                if let Some(Statistics { mismatch: Some(mismatch), .. }) = &mut statistics {
                    mismatch.add(meant.as_slice().expect("standard layout"), seen)?;
                }
                float.release(chunk, site);
            }
            self.quantized.release(chunk, site);
        }
        Ok(statistics)
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
