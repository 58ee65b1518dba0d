//! Buffers that are used again: a training step allocates nothing after the first.

/// Buffers by length. What is taken holds whatever was in it.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: Vec<Vec<f32>>,
}

impl Pool {
    /// A buffer of this length with any content: the smallest that is large enough and not wasteful, else a new one.
    pub(crate) fn take(&mut self, len: usize) -> Vec<f32> {
        let fits = len..=2 * len.max(64);
        let fitting = self.free.iter().enumerate().map(|(i, buffer)| (buffer.capacity(), i));
        match fitting.filter(|(capacity, _)| fits.contains(capacity)).min() {
            Some((_, i)) => {
                let mut buffer = self.free.swap_remove(i);
                buffer.resize(len, 0.0);
                buffer
            }
            None => vec![0.0; len],
        }
    }

    /// A copy.
    pub(crate) fn copy(&mut self, values: &[f32]) -> Vec<f32> {
        let mut buffer = self.take(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    /// Gives a buffer back.
    pub(crate) fn give(&mut self, buffer: Vec<f32>) {
        if buffer.capacity() > 0 {
            self.free.push(buffer);
        }
    }
}
