//! Calibration tokens: documents joined and cut into windows of equal length.

use crate::PipelineError;

/// Windows of tokens, all of the same length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calibration {
    tokens: Vec<u32>,
    window: usize,
}

impl Calibration {
    /// Joins documents (each with its BOS, if the model wants one) and cuts the first `n_windows` windows of `window` tokens.
    /// Text left over is not used.
    ///
    /// # Errors
    /// [`PipelineError::CalibrationTooShort`] if the documents do not fill a single window. Fewer than `n_windows` are
    /// allowed: the count is in the report.
    pub fn from_documents<D: AsRef<[u32]>>(
        documents: impl IntoIterator<Item = D>,
        window: usize,
        n_windows: usize,
    ) -> Result<Self, PipelineError> {
        let wanted = window.saturating_mul(n_windows);
        let mut tokens = Vec::new();
        for document in documents {
            let document = document.as_ref();
            tokens.extend_from_slice(&document[..document.len().min(wanted - tokens.len())]);
            if tokens.len() == wanted {
                break;
            }
        }
        if window == 0 || tokens.len() < window {
            return Err(PipelineError::CalibrationTooShort {
                tokens: tokens.len(),
                needed: window,
            });
        }
        tokens.truncate(tokens.len() / window * window);
        Ok(Self { tokens, window })
    }

    /// All tokens, window after window.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The windows, in order.
    pub fn windows(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.tokens.chunks_exact(self.window)
    }

    /// Tokens of one window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Number of windows.
    pub fn n_windows(&self) -> usize {
        self.tokens.len() / self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_and_cuts() {
        let documents: [&[u32]; 3] = [&[1, 2, 3], &[4, 5], &[6, 7, 8, 9]];
        let c = Calibration::from_documents(documents, 2, 3).unwrap();
        assert_eq!((c.tokens(), c.n_windows()), (&[1, 2, 3, 4, 5, 6][..], 3));
        let c = Calibration::from_documents(documents, 4, 100).unwrap();
        assert_eq!((c.tokens().len(), c.n_windows()), (8, 2));
    }

    #[test]
    fn refuses_less_than_a_window() {
        let error = Calibration::from_documents([[1, 2]], 3, 1).unwrap_err();
        assert!(matches!(error, PipelineError::CalibrationTooShort { tokens: 2, needed: 3 }));
        assert!(Calibration::from_documents([[1, 2]], 0, 1).is_err());
        assert!(Calibration::from_documents([[1, 2]], usize::MAX, 2).is_err());
    }
}
